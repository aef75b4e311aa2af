"""Are these the files to publish? One source distribution, and a wheel for each platform.

python .ci/check_dists.py dist any manylinux_x86_64 manylinux_aarch64 macosx_arm64
"""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST = 3_000_000  # bytes: a wheel brings no CUDA code, no data and no results


def main(folder: Path, *platforms: str) -> None:
    scope: dict[str, str] = {}
    exec((ROOT / "drcl" / "_version.py").read_text("utf-8"), scope)
    release = f"drcl-{scope['__version__']}"
    files = sorted(path.name for path in folder.iterdir())
    assert files.count(f"{release}.tar.gz") == 1, f"no {release}.tar.gz in {files}"
    with tarfile.open(folder / f"{release}.tar.gz") as sdist:
        assert {name.partition("/")[0] for name in sdist.getnames()} == {release}
    wheels = {name: platform_of(name, release) for name in files if not name.endswith(".tar.gz")}
    assert sorted(wheels.values()) == sorted(platforms), f"expected {platforms}, got {wheels}"
    for name, platform in wheels.items():
        check_wheel(folder / name, release, compiled=platform != "any")
        print(f"{name}: {(folder / name).stat().st_size / 1e6:.2f} MB")


def platform_of(name: str, release: str) -> str:
    """``manylinux_x86_64`` of a wheel for every Python, without the version of the system."""
    found = re.fullmatch(
        rf"{re.escape(release)}-py3-none-(any|(manylinux|macosx)_\d+_\d+_(\w+))\.whl", name
    )
    assert found is not None, f"{name}: no wheel of {release} for every Python"
    return f"{found[2]}_{found[3]}" if found[2] else "any"


def check_wheel(wheel: Path, release: str, compiled: bool) -> None:
    assert wheel.stat().st_size < MOST, f"{wheel.name}: {wheel.stat().st_size} bytes"
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        strange = {
            name for name in names if not name.startswith(("drcl/", f"{release}.dist-info/"))
        }
        strange |= {name for name in names if re.search(r"/(tests|results|csrc)/|\.pyc$", name)}
        assert not strange, f"{wheel.name}: {sorted(strange)}"
        ops = {name for name in names if name.endswith((".so", ".dylib"))}
        assert ops == ({"drcl/_ops.so"} if compiled else set()), f"{wheel.name}: {ops}"
        for name in ops:  # the section with the GPU's code
            assert b".nv_fatbin" not in archive.read(name), f"{wheel.name}: CUDA code in {name}"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
