"""Files from the web, each downloaded once.

Until `<name>` is whole there are beside it `<name>.part`; `<name>.part.json`, of what it is a part; `<name>.part.lock`:
who wants the same file meanwhile waits. A killed process leaves its lock behind: after two timeouts without growth of
the part the next one takes over, and the first, should it live after all, sees that the part is not as it left it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from http.client import HTTPException, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from transferjax._files import writable_folder
from transferjax._validate import fail

_CHUNK = 1 << 20
_PAUSES = (0.5, 1.0, 2.0)  # seconds, one before each further try


class _BrokenError(Exception):
    """args: what happened, and whether another try may help."""


class _WebOnly(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(newurl).scheme not in ("http", "https"):  # urllib refuses files, but not ftp
            raise HTTPError(newurl, code, f"{msg} - Redirection to url '{newurl}' is not allowed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(
    url: str, *, folder: str | os.PathLike[str], sha256: str | None = None, name: str | None = None, timeout: float = 30
) -> Path:
    """Returns the path of a file of the web, which is downloaded if it is not there.

    A download that breaks off is tried again a few times, and the next call resumes it where the server can do that
    and still has the same file. Whether the server has a newer version of a file that is there is not asked.

    Args:
      url: of the file: https, http or file. Proxies are those that `urllib.request` finds.
      folder: where the file is kept; made if it is not there.
      sha256: its hash, 64 hexadecimal digits or at least the first 8, as in the names of torchvision's files.
      name: of the file in the folder; if not given, the last part of the URL's path.
      timeout: seconds without any answer after which to give up.

    Raises:
      InputError: the file cannot be had or written, or has another hash.
    """
    _check_form(sha256)
    path = Path(folder) / _name(url, name)
    if not path.is_file():
        writable_folder("folder", folder, files=[path.name])
        try:
            with _alone(path, 2 * timeout) as part:
                if not path.is_file():  # else another process just got it
                    _download(url, path, part, timeout)
                    if wrong := _wrong(part, sha256):
                        part.unlink()
                        raise fail(url, wrong, "The download is removed; run again, or correct `sha256`.")
                    part.replace(path)
                    return path
        except OSError as error:
            why = f"cannot be written ({error.strerror or error})"
            raise fail(str(path), why, "Make room or choose another folder.") from error
    verify(path, sha256)
    return path


def verify(path: Path, sha256: str | None) -> None:
    """Raises `InputError` if a file has another hash, see `fetch`; None is any."""
    _check_form(sha256)
    if wrong := _wrong(path, sha256):
        raise fail(str(path), wrong, "Delete the file and run again, or correct `sha256`.")


def _check_form(sha256: str | None) -> None:
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{8,64}", sha256):
        raise fail("sha256", f"{sha256!r} is no hash", "Give 64 hexadecimal digits, or at least the first 8.")


def _name(url: str, name: str | None) -> str:
    try:
        parts = urlsplit(url)
        web = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
        fine = re.fullmatch("[!-~]+", url) and (web or parts.scheme == "file")
    except ValueError:  # a port that is no number, a bracket that does not close
        fine = False
    if not fine:
        raise fail("url", f"{url!r} is no address", "Give one in ASCII that starts with https://, http:// or file://.")
    found = unquote(parts.path.rpartition("/")[2]) if name is None else name
    if not re.fullmatch(r"(?!\.)[^/\\:\x00-\x1f\x7f]+", found):
        why = f"{found!r} cannot be the name of a file"
        raise fail("name", why, "Give one without slash and colon that does not start with a dot.")
    return found


def _wrong(file: Path, sha256: str | None) -> str:
    """Returns what is wrong with the hash of a file, if anything is."""
    if sha256 is None:
        return ""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    return "" if found.startswith(sha256.lower()) else f"its SHA-256 is {found}, expected was {sha256.lower()}"


@contextlib.contextmanager
def _alone(path: Path, stale: float) -> Iterator[Path]:
    """Yields the part of a file once no other process writes it."""
    part, side, lock = (path.with_name(path.name + end) for end in (".part", ".part.json", ".part.lock"))
    while True:
        try:
            lock.touch(exist_ok=False)
            break
        except FileExistsError:
            with contextlib.suppress(FileNotFoundError):
                changed = max(lock.stat().st_mtime, part.stat().st_mtime if part.exists() else 0)
                if time.time() - changed > stale:
                    lock.unlink()
        time.sleep(0.2)  # also after `unlink`: whoever saw the same old lock is then done with removing it
    try:
        yield part
    finally:
        if not part.exists():
            side.unlink(missing_ok=True)
        lock.unlink(missing_ok=True)


def _download(url: str, path: Path, part: Path, timeout: float) -> None:
    """Makes the part whole, in several tries where that may help."""
    for pause in (*_PAUSES, None):
        try:
            _try(url, path.name, part, timeout)
            return
        except _BrokenError as error:
            why, again = error.args
            if pause is None or not again:
                resume = "Run again to resume. Or download" if part.exists() else "Download"
                raise fail(url, why, f"{resume} it elsewhere and put it at {path}.") from error
            time.sleep(pause)


@contextlib.contextmanager
def _network(part: Path) -> Iterator[None]:
    """Tells errors of the network from those of the disk."""
    try:
        yield
    except HTTPError as error:
        error.close()
        if error.code == 416:  # the server's file ends before the part
            part.unlink(missing_ok=True)
        again = error.code in (408, 416, 429) or error.code >= 500
        raise _BrokenError(f"the server answers {error.code} {error.reason}", again) from error
    except (OSError, HTTPException, ValueError) as error:  # the last: a host's name that cannot be encoded
        reason = getattr(error, "reason", error)
        again = isinstance(reason, ConnectionResetError | ConnectionAbortedError | IncompleteRead)
        raise _BrokenError(f"cannot be read ({reason})", again) from error


def _try(url: str, name: str, part: Path, timeout: float) -> None:
    side = part.with_name(f"{part.name}.json")
    note: dict[str, Any] = {}
    done = 0
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # there is no part, or a note of no use
        note = json.loads(side.read_text())
        done = part.stat().st_size if note["url"] == url else 0
    if done and done == note["size"]:
        return  # stopped before it was renamed
    request = Request(url, headers={"User-Agent": "transferjax"})
    if done and note["validator"]:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", note["validator"])
    with _network(part):
        response = build_opener(_WebOnly).open(request, timeout=timeout)
    with response:
        etag = response.headers.get("ETag", "W/")
        validator = response.headers.get("Last-Modified") if etag.startswith("W/") else etag  # weak: not for If-Range
        if response.status == 206:
            same = re.fullmatch(rf"bytes {done}-\d+/{note.get('size')}", response.headers.get("Content-Range", ""))
            if not same or validator not in (None, note["validator"]):
                part.unlink(missing_ok=True)
                raise _BrokenError("the server has another file than before", True)
        else:
            done, note = 0, {"url": url, "validator": validator, "size": getattr(response, "length", None)}
        size = note["size"]
        bar = tqdm(total=size, initial=done, desc=name, unit="B", unit_scale=True, disable=None, leave=False)
        with bar, part.open("ab" if done else "wb") as file:
            if not done:  # after the part was emptied: the note never speaks of older bytes
                side.write_text(json.dumps(note))
            while size is None or done < size:
                with _network(part):
                    chunk = response.read1(_CHUNK if size is None else min(_CHUNK, size - done))
                if not chunk:
                    break
                if os.fstat(file.fileno()).st_size != done:
                    raise _BrokenError("another process downloads it too", False)
                file.write(chunk)
                file.flush()
                done += len(chunk)
                bar.update(len(chunk))
    if size is not None and done < size:
        raise _BrokenError(f"interrupted after {done:,} of {size:,} bytes", True)
