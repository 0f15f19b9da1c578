import shutil
import stat
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from d2ls.errors import DataError
from d2ls.preparation.archives import Sources
from tests.preparation.fake_archives import write_zip, zipped

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]


def contents(folder):
    with Sources(folder, folder) as sources:
        found = {}
        for source in sources.files():
            with source.open() as file:
                found[source.path.as_posix()] = file.read()
            assert source.size == len(found[source.path.as_posix()])
        return found


@pytest.mark.parametrize("outer", METHODS)
@pytest.mark.parametrize("inner", METHODS)
def test_folders_and_zips_in_zips_are_one_list(tmp_path, outer, inner):
    data = np.random.default_rng(0).bytes(3_000_000)
    deepest = zipped({"x.bin": data, "y.bin": b"y" * 5000}, inner)
    middle = zipped({"folder/deep.ZIP": deepest, "z.bin": b"z"}, inner)
    write_zip(tmp_path / "sub" / "a.zip", {"first.bin": b"1", "in/middle.zip": middle}, outer)
    (tmp_path / "plain.bin").write_bytes(b"plain")
    (tmp_path / ".hidden").write_bytes(b"")
    assert contents(tmp_path) == {
        "plain.bin": b"plain",
        "sub/a.zip/first.bin": b"1",
        "sub/a.zip/in/middle.zip/z.bin": b"z",
        "sub/a.zip/in/middle.zip/folder/deep.ZIP/x.bin": data,
        "sub/a.zip/in/middle.zip/folder/deep.ZIP/y.bin": b"y" * 5000,
    }
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", "plain.bin", "sub"}


@pytest.mark.parametrize(
    "name", ["../evil.tif", "a/../../evil.tif", "/etc/evil.tif", "C:/evil.tif", "..\\evil.tif", "a\\..\\..\\evil"]
)
@pytest.mark.parametrize("nested", [False, True])
def test_paths_that_lead_out_are_refused(tmp_path, name, nested):
    data = zipped({"good.tif": b"", name: b"evil"})
    (tmp_path / "a.zip").write_bytes(zipped({"inner.zip": data}) if nested else data)
    with pytest.raises(DataError, match=r"a\.zip.*member .*evil.* would leave the target folder"):
        contents(tmp_path)


@pytest.mark.parametrize("size", [1 << 31, 200_000])
def test_sizes_that_no_image_has_are_refused(tmp_path, size):
    data = bytearray(zipped({"a.tif": bytes(1000)}))
    place = data.rindex(b"PK\1\2") + 24  # the declared size, in the directory
    data[place : place + 4] = struct.pack("<I", size)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip: member 'a\.tif' declares {size} bytes in .*bomb"):
        contents(tmp_path)


def test_members_that_share_their_bytes_are_refused(tmp_path):
    data = zipped({"a.tif": np.random.default_rng(0).bytes(1000)})
    begin, end = data.rindex(b"PK\1\2"), data.rindex(b"PK\5\6")
    counts = struct.pack("<HHI", 20, 20, 20 * (end - begin))
    (tmp_path / "a.zip").write_bytes(
        data[:begin] + data[begin:end] * 20 + data[end : end + 8] + counts + data[end + 16 :]
    )
    with pytest.raises(DataError, match=r"a\.zip: its members overlap"):
        contents(tmp_path)


def test_an_inner_archive_larger_than_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    inner = zipped({"a.tif": np.random.default_rng(0).bytes(1000)})
    write_zip(tmp_path / "a.zip", {"inner.zip": inner}, zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=len(inner) - 1))
    with pytest.raises(DataError, match=r"a\.zip/inner\.zip: .* GB to unpack, .* are free"):
        contents(tmp_path)


def test_archives_in_archives_without_end_are_refused(tmp_path):
    data = zipped({"a.tif": b""})
    for _ in range(6):
        data = zipped({"a.zip": data})
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="archives inside archives, more than 4 deep"):
        contents(tmp_path)


def test_links_in_an_archive_are_refused(tmp_path):
    link = zipfile.ZipInfo("link.tif")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match=r"'link\.tif' is a symbolic link"):
        contents(tmp_path)


def test_an_archive_that_breaks_off(tmp_path):
    data = zipped({"x.bin": b"x" * 1000})
    (tmp_path / "a.zip").write_bytes(data[:-30])
    with pytest.raises(DataError, match=r"a\.zip: no readable zip archive"):
        contents(tmp_path)


def test_a_damaged_member(tmp_path):
    data = bytearray(zipped({"x.bin": b"x" * 1000}, zipfile.ZIP_STORED))
    data[200] ^= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip/x.bin: cannot be unpacked: Bad CRC-32.*download it again"):
        contents(tmp_path)


def test_an_encrypted_member(tmp_path):
    data = bytearray(zipped({"x.bin": b"x" * 1000}, zipfile.ZIP_STORED))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match=r"a.zip/x.bin: encrypted. Unpack the archive with its password"):
        contents(tmp_path)


def test_loops_of_links_end(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.bin").write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
    assert list(contents(tmp_path).values()) == [b"x"]


def test_other_archives_are_noted(tmp_path):
    (tmp_path / "Train.7z").write_bytes(b"7z")
    with Sources(tmp_path, tmp_path) as sources:
        sources.files()
        assert sources.not_opened == ["Train.7z"]
    with pytest.raises(DataError, match="nowhere: no such folder"):
        contents(tmp_path / "nowhere")


def test_checksums_agree(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"some content")
    write_zip(tmp_path / "a.zip", {"x.bin": b"some content"})
    with Sources(tmp_path, tmp_path) as sources:
        one, other = sources.files()
        assert one.checksum() == other.checksum()
