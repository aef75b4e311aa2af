"""The kernels of the reversible consistency loss, a file per stage; ``stages`` lists them."""
