"""MATLAB's string arrays in version 7.3: read from a file that another program wrote."""

from __future__ import annotations

import base64
import contextlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from fault_injection import in_child

from drcl.data import load_manifest
from drcl.data.files import read_array
from drcl.data.formats import limits

h5py = pytest.importorskip("h5py", reason="MATLAB v7.3 files need h5py")

# save_to_mat of mat-io 1.0.2 wrote these variables, the strings as string arrays.
CONTENT = (
    "c-rk+zjNC*6b2|cW^{JrxJ{#^*A}hXo)_D+Q~P`#dQu&y>RlA;8ujYUp(N^uLrXf5ZlnLe*)nF#*wJG~kNFd{WN){Q"
    "-BMC`kO+trCApTZGrl|C6Ci*9K0dsM_sC2t_c-+<*;vs?CY4(*RZW9rP2Dcln@1~Tr)lW6Q6%-+Hd)u!H<#Deme;q4"
    "rfqL*Zfk4g*W3=tx5$xhSL@{1s@BS+ve9Uf-yf{3Z92E~2Vziu&LD|P#mn@=NAt1!u}(o%Q4}q}v!UVxpuNqPS^sAs"
    "F~}2;e=4jVcm9h*{cX6v*e>_W?ylSVg8(*;7Nt^^kL+3^y_?Fqav#cDAm1r`yB5fL&FIK-vs!dz!aB}dEz35J5}o=)"
    "(<oVqp5BsxaWR^uZ7?e@QK?`~?{5hEfR!VTzPoj<)<-=f%{ZFu)+-9VkqSE`f|-iPxp~YX4emehG*D5dW48|qrfyko"
    "{l}P&$;P+rrelrWeo5$e$NAmuSI-|B1^b|A6zateQ41<RKir)^kEc)e9%5(q8kEmw`E|cur1I@2Jg={XcFfF>MSis>"
    "HwNngbVDy@2Df8&f<&&SK2Kh+;#XR)CeMd<#rc@w{N@5^ejD~x77g~V;yxUJ_X^Czdx`Z*Kz#&c6xwWojeg}^|2Wsb"
    "?%XiFh;!++R+qCND8BoJn_J&}u`t)*eb@gR3-yXedg~(r&uYB=&yN)q>cuf;h59=B1DWWD_RIGK{q6kHQLS^?0r$s("
    "WaC-RolNJ#K5O^u9|@?}Q4txagz~6>$^vi5r~KDvpx2)dZYP$rUxWQmz`5`a_>H@u@30Zx-J`O7AI=M3z&YYeD&Kq~"
    "&r}i;64x7HarfDGGVYdfcQ5W{@mF$@Z<pEGd+PPq>HkG9l|a2re#*y}>Q_|m%SU#t^zszS6_ERckC!Smj6{v`<GbU6"
    "J$jr<F!C*X<5cXitif?=TIKIB{5obl;~!UR_7>M~w$m@Ykxk{&wEay_`&F7CTh;qAFMj!;XxBfm^LSYPhMm`gz~b4r"
    "@xkrb{%7a?X$8}(p5D-fV~l;{F|Qs`?vo*URJrN*9OodDI!KRhdGw;7*Xp%uK{ttU)UaDze^1_n{y8Auf&27$IDO0y"
    "xew?1#u4M#QTclT{5?BYzR2B&o8OPV?n1~u4C5mxZ#F(3ZQw(@6h4aQ<Rd1mKXz_D)EJ+cn=Bv3kbJ~1%)ac${O!wl"
    "{&v!Kr93g7DpSo<WyEuk5|EFK06%wuw*hu{Y`&sizh#)_IO{F-ok-AF_9mQ<QQu#j#QY-jaqP{5_0f5$hS(d_%?nd7"
    "zs>v@v){~am4$OW<DHH39Ha^IP~h>r@g_aTs_@i$dE+1?5uaBMf+pm<gTUTri}~=rxCilh>>#jHN?4vdE9BLKz~X9_"
    "cMsbK7iT|TO||`eJ~5u&Of^sD#Qn_arTUq}q5Vv3C_Yqy4|PaBSl&ck@{4wcix=lT<36gI#&1o%(J-0^2k4@{N9lev"
    "gHFGdxv_E3+XrVc-ouH{y<eYibNbx-&}x+>g;DRj1o69{Iq*OjedPQVXZld88fMW|sC&@G9S3{tqu=}N_EN9zr=7jW"
    "*fXB^-rF-Z>hEt!9gvWakdTm&kdTm&kdTm=Hv9)u2G0l"
)
NAMES = ["owl", "", "\U0001f989 élan", "ant"]


@pytest.fixture
def path(tmp_path) -> Path:
    (tmp_path / "a.mat").write_bytes(zlib.decompress(base64.b85decode(CONTENT)))
    return tmp_path / "a.mat"


def edit(path: Path, item: str, change) -> None:
    """Change the values of a data set in place."""
    with h5py.File(path, "r+") as file:
        values = file[item][()]
        change(values)
        file[item][...] = values


def test_strings_in_the_order_of_matlab(path):
    assert read_array(path, "y").tolist() == NAMES
    assert read_array(path, "one").tolist() == ["solo"]
    assert read_array(path, "grid").tolist() == ["a", "def", "bc", "g"]


def test_strings_as_the_labels_of_a_manifest(path):
    np.save(path.parent / "x.npy", np.eye(4))
    toml = path.parent / "a.toml"
    table = 'features = "x.npy"\nlabels = "a.mat:y"\n'
    toml.write_text(f"[train.image]\n{table}[validation.image]\n{table}")
    data = load_manifest(toml)
    assert data.classes == ("ant", "owl", "\U0001f989 élan")
    assert data.train["image"].labels.tolist() == [1, -1, 2, 0]


def test_a_string_in_a_cell_and_one_that_is_missing(path):
    with h5py.File(path, "r+") as file:
        references = np.array([[file["one"].ref], [file["y"].ref]], h5py.ref_dtype)
        file.create_dataset("cells", data=references)
    assert read_array(path, "cells{1}").tolist() == "solo"
    assert read_array(path, "cells{2}").tolist() == NAMES
    (item,) = words_of(path, "one")
    edit(path, item, lambda words: words.__setitem__((4, 0), 2**64 - 1))
    assert read_array(path, "one").tolist() == [""]


def words_of(path: Path, variable: str) -> list[str]:
    number = {"y": 0, "one": 1, "grid": 2}[variable]
    with h5py.File(path) as file:
        cells = file["#subsystem#/MCOS"][()].reshape(-1)
        return [file[cells[2 + number]].name]


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words.__setitem__((1, 0), 2**63),
        lambda words: words.__setitem__((2, 0), 2**63),
        lambda words: words.__setitem__((4, 0), 2**62),
        lambda words: words.__setitem__((4, 0), 5),
        lambda words: words.__setitem__((-1, 0), 0xD800),
    ],
    ids=["dimensions", "rows", "a length", "a letter too many", "half a letter"],
)
def test_words_that_do_not_fit_are_refused(path, change):
    (item,) = words_of(path, "one")
    edit(path, item, change)
    with pytest.raises(ValueError, match=r"a\.mat: expected \.mat, got a damaged"):
        read_array(path, "one")


def test_other_ways_to_keep_strings_are_refused_by_name(path):
    (item,) = words_of(path, "one")
    edit(path, item, lambda words: words.__setitem__((0, 0), 2))
    with pytest.raises(ValueError, match=r"'one' is an object of MATLAB's class 'string'.*cellstr"):
        read_array(path, "one")
    edit(path, "y", lambda words: words.__setitem__((0, 2), 2))
    with pytest.raises(ValueError, match="'y' is an object of MATLAB's class 'string'"):
        read_array(path, "y")
    with h5py.File(path, "r+") as file:
        del file["#subsystem#"]
    with pytest.raises(ValueError, match="'grid' is an object of MATLAB's class 'string'"):
        read_array(path, "grid")


@pytest.mark.parametrize("part", ["#subsystem#", "#subsystem#/MCOS"])
def test_objects_of_another_file_are_not_read(path, part):
    other = path.with_name("other.mat")
    other.write_bytes(path.read_bytes())
    with h5py.File(path, "r+") as file:
        del file[part]
        file[part] = h5py.ExternalLink("other.mat", part)
    with pytest.raises(ValueError, match="'y' is an object of MATLAB's class 'string'"):
        read_array(path, "y")


def test_the_words_of_a_string_are_in_its_own_file(path):
    secret = path.with_name("secret.bin")
    secret.write_bytes(np.array([1, 2, 1, 1, 4, 0x6F0073006F006C], np.uint64).tobytes())
    (item,) = words_of(path, "one")
    with h5py.File(path, "r+") as file:
        cells = file["#subsystem#/MCOS"][()]
        del file[item]
        held = file.create_dataset(item, (6, 1), "u8", external=[(str(secret), 0, 48)])
        cells[0, 3] = held.ref
        file["#subsystem#/MCOS"][...] = cells
    with pytest.raises(ValueError, match="in other files, which are not read"):
        read_array(path, "one")


def test_strings_are_counted(path, monkeypatch):
    monkeypatch.setattr(limits, "FLOOR", 64)
    monkeypatch.setattr(limits, "RATIO", 0)
    with pytest.raises(ValueError, match=r"a\.mat: an array of .* would take"):
        read_array(path, "y")


def test_any_damage_to_the_table_of_objects_is_refused_or_read(path):
    """In a child process, with a limit on its time: the table says how far to go in itself."""
    with h5py.File(path) as file:
        table = file[file["#subsystem#/MCOS"][0, 0]]
        start, size = table.id.get_offset(), table.size
    content = path.read_bytes()

    def read_all():
        for at in range(start, start + size):
            for value in ((0, 255), (1, 127))[at % 2]:
                path.write_bytes(content[:at] + bytes([value]) + content[at + 1 :])
                for key in ("y", "grid"):
                    with contextlib.suppress(ValueError):
                        read_array(path, key)

    assert in_child(read_all, limit=120.0) == 0
