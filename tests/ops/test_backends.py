"""What the package says about itself and the machine."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
from importlib import util
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from drcl import backends, dispatch, portable
from drcl._version import __version__
from drcl.errors import BackendUnavailable

ROOT = Path(__file__).resolve().parents[2]
needs_ops = pytest.mark.skipif(
    not backends._ops_library().is_file(), reason="this build has no compiled ops"
)


def test_build_info_is_plain_data() -> None:
    info = json.loads(json.dumps(backends.build_info()))
    assert info["drcl"] == __version__
    assert info["python"] == platform.python_version()
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert info["cuda"]["available"] == torch.cuda.is_available()
    assert len(info["cuda"]["devices"]) == torch.cuda.device_count()


def test_reference_and_eager_are_always_available() -> None:
    available = {backend.name: backend.available for backend in backends.probe_backends()}
    assert available["reference"]
    assert available["eager"]


def test_every_unavailable_backend_says_why() -> None:
    assert all(backend.reason for backend in backends.probe_backends())


@pytest.mark.skipif(util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(
    ("interpret", "device", "available", "reason"),
    [
        ("1", False, True, "interpreted"),
        ("0", False, False, "CUDA"),
        ("0", True, True, "kernels on some card"),
    ],
)
def test_triton_needs_a_device_or_the_interpreter(
    monkeypatch: pytest.MonkeyPatch, interpret: str, device: bool, available: bool, reason: str
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some card")
    found = backends.probe_triton()
    assert found.available is available
    assert reason in found.reason


def test_triton_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.util, "find_spec", lambda name: None)
    found = backends.probe_triton()
    assert not found.available
    assert "not installed" in found.reason


def test_ops_that_are_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "backends.py"))
    monkeypatch.setattr(backends, "load_ops", backends.load_ops.__wrapped__)
    said = f"the compiled ops are not built: {backends.REBUILD}"
    assert backends.probe_native() == backends.Backend("native", False, said)
    info = backends.build_info()
    assert info["extension"] == {"built": False, "reason": said}
    assert info["cpu_capability"] == torch.backends.cpu.get_cpu_capability().lower()
    assert said in backends.format_info()


def test_a_bug_report_can_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a maintainer asks for first, on a machine with two GPUs and settings of its own."""
    card = SimpleNamespace(name="some card", major=9, minor=0, total_memory=141 * 2**30)
    proc = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.82.07  Wed Aug 27 2025\n"
    (tmp_path / "version").write_text(proc, encoding="utf-8")
    read = portable._first
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some card")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(
        portable,
        "_first",
        lambda file, pattern: read(
            str(tmp_path / "version") if file.startswith("/proc/driver") else file, pattern
        ),
    )
    monkeypatch.setenv("DRCL_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    info, text = json.loads(json.dumps(backends.build_info())), backends.format_info()
    assert info["cuda"]["driver"] == "580.82.07"
    wanted = (
        *("DRCL_CPU_CAPABILITY=avx2", "13.0: some card (sm_90, 141 GiB), some card", "580.82.07"),
        *(torch.__version__, platform.platform(), platform.python_version(), str(ROOT / "drcl")),
        *(f"{torch.get_num_threads()} threads", f"safetensors {version('safetensors')}"),
    )
    for fact in wanted:
        assert fact in text
    assert "secret" not in text


@pytest.fixture
def rocm(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A ROCm build of torch, as it shows itself: its devices and capabilities read like CUDA's."""
    pytest.importorskip("triton", reason="Triton is not installed")
    card = SimpleNamespace(
        name="AMD Instinct MI300X",
        gcnArchName="gfx942:sramecc+:xnack-",
        major=9,
        minor=4,
        total_memory=192 * 2**30,
    )
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.delenv("DRCL_BACKEND", raising=False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.4.43482")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: card.name)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 4))
    monkeypatch.setattr(portable, "nvidia_driver", lambda: None)
    monkeypatch.setattr(dispatch, "_probed", {})
    return card


GPU = torch.device("cuda", 0)


def test_rocm_is_recognised(rocm: SimpleNamespace) -> None:
    info, text = json.loads(json.dumps(backends.build_info())), backends.format_info()
    assert info["cuda"]["version"] is None and info["cuda"]["rocm"] == "6.4.43482"
    assert "ROCm       6.4.43482: AMD Instinct MI300X (gfx942, 192 GiB)" in text
    assert "sm_" not in text.partition("set ")[0].partition("ROCm ")[2], "it is not NVIDIA's"
    assert "built without CUDA" not in text
    assert "kernels on AMD Instinct MI300X (gfx942), compiled, never run" in text


def test_rocm_is_asked_for_no_cuda_code(
    rocm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the compiled ops have an entry for "cuda", as HIP's tensors would ask for it."""
    backends.load_ops()
    monkeypatch.setattr(torch._C, "_dispatch_has_kernel_for_dispatch_key", lambda op, key: True)
    monkeypatch.setattr(dispatch, "_has_image", lambda device: pytest.fail("CUDA was asked"))
    assert set(dispatch.explain(GPU).values()) == {"eager"}
    if backends.probe_native().available:
        with dispatch.use_backend("native"):
            assert dispatch.choose("average_precision", GPU) == "eager"
        assert dispatch.choose("average_precision", torch.device("cpu")) == "native"


def test_kernels_that_never_ran_have_to_be_asked_for(
    rocm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dispatch.use_backend("triton"):
        assert dispatch.choose("mixup", GPU) == "triton"
        assert dispatch.choose("reversible_consistency", GPU, kernels=False) == "eager"
    monkeypatch.setenv("DRCL_BACKEND", "triton")
    assert dispatch.choose("reversible_consistency", GPU) == "triton"
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("DRCL_BACKEND")
    assert dispatch.choose("mixup", GPU) == "triton", "on NVIDIA's it is the first choice"


def test_amd_gpus_that_kernels_are_not_compiled_for_are_named(rocm: SimpleNamespace) -> None:
    rocm.gcnArchName = "gfx1030"
    assert dispatch.choose("mixup", GPU) == "eager"
    with (
        pytest.raises(BackendUnavailable, match=r"gfx1030.*expected one of gfx90a, gfx942"),
        dispatch.use_backend("triton"),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "generation"), [("gfx942:sramecc+:xnack-", 9), ("gfx90a", 9), ("gfx1100", 11)]
)
def test_kernels_do_not_take_amd_for_nvidia(
    rocm: SimpleNamespace, name: str, generation: int
) -> None:
    """gfx942 calls itself capability 9.4, and gfx1100 11.0: neither has TF32 or wgmma."""
    product = importlib.import_module("drcl.kernels.product")
    rocm.gcnArchName = name
    tensor = SimpleNamespace(is_cuda=True, device=GPU)
    assert product.gpu(tensor) == ("amd", generation)
    assert product.float32_precision(tensor) == "ieee"
    assert product.register_limit(tensor, 4) == {}


@needs_ops
def test_the_ops_say_how_they_were_built() -> None:
    extension = backends.build_info()["extension"]
    assert "-ffp-contract=off" in extension["flags"]  # products and sums round alike everywhere
    assert "TORCH_TARGET_VERSION" in extension["flags"]
    assert extension["flags"] in backends.format_info()
    assert extension["torch"].startswith("2.")
    assert extension["compiler"].split()[0] in ("gcc", "clang", "msvc")
    assert extension["cxx_standard"] >= 20


@pytest.mark.parametrize("content", ["not a library", "of older source"])
def test_ops_that_do_not_load(
    content: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if content == "of older source":  # any library that does not say how it was built
        numpy_core = next(Path(np.__file__).parent.glob("_core/_multiarray_umath*.so"))
        shutil.copy(numpy_core, tmp_path / "_ops.so")
        monkeypatch.setattr(torch.ops, "load_library", lambda library: None)
    else:
        (tmp_path / "_ops.so").write_bytes(content.encode())
    monkeypatch.setattr(backends, "__file__", str(tmp_path / "backends.py"))
    monkeypatch.setattr(backends, "load_ops", backends.load_ops.__wrapped__)
    found = backends.probe_native()
    assert not found.available
    assert "_ops.so does not load" in found.reason
    assert backends.build_info()["extension"] == {"built": False, "reason": found.reason}


@needs_ops
@pytest.mark.parametrize("family", ["prior_similarity", "reversible_consistency"])
def test_loops_without_their_instruction_have_to_be_asked_for(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(dispatch, "_fuses_products", lambda: False)
    assert dispatch.choose(family, cpu) == "eager"
    assert dispatch.choose("average_precision", cpu) == "native"
    with dispatch.use_backend("native"):
        assert dispatch.choose(family, cpu) == "native"


@needs_ops
def test_the_ops_agree_with_torch_on_the_processor() -> None:
    ours = backends.build_info()["cpu_capability"]
    torchs = torch.backends.cpu.get_cpu_capability().lower()
    # torch may be held back by ATEN_CPU_CAPABILITY or by how it was built, never ahead
    order = ["default", "avx2", "avx512"]
    assert order.index(ours) >= order.index(torchs if torchs in order else "default")


def test_format_info_names_every_backend() -> None:
    text = backends.format_info()
    assert text.startswith(f"drcl {__version__}\n")
    for backend in backends.probe_backends():
        assert f"{backend.name} " in text
        assert backend.reason in text
