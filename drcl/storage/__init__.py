"""Files on disk.

`files` writes them whole or not at all, and locks folders; `sealed` puts checksums into JSON and
tensors; `mmap` reads rows of arrays that are larger than memory.
"""
