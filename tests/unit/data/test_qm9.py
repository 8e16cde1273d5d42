"""Fetching QM9: verified, trusted on first use only, and clear when it cannot be had."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from openfl_flows.data.qm9 import download_qm9

CONTENT = b"mol_id,smiles,mu,homo\ngdb_1,C,0.0,-0.3877\n"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    """A server of one file, whose `body`, `length` and `hits` a test may change and read."""

    class Reply(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.hits += 1
            if self.path != "/qm9.csv":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(self.server.length or len(self.server.body)))
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Reply) as server:
        server.body, server.length, server.hits = CONTENT, None, 0
        server.url = f"http://127.0.0.1:{server.server_port}/qm9.csv"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_downloads_once_and_records_the_digest(server, tmp_path):
    path = download_qm9(tmp_path / "new", url=server.url)
    assert path.read_bytes() == CONTENT
    assert (path.parent / "qm9.csv.sha256").read_text() == f"{DIGEST}  qm9.csv\n"
    assert download_qm9(tmp_path / "new", url=server.url) == path
    assert server.hits == 1
    assert {p.name for p in path.parent.iterdir()} == {"qm9.csv", "qm9.csv.sha256"}


def test_agreed_digest_is_verified(server, tmp_path):
    assert download_qm9(tmp_path, url=server.url, sha256=DIGEST.upper()).read_bytes() == CONTENT


def test_tampered_download_is_refused_and_not_kept(server, tmp_path):
    server.body = CONTENT.replace(b"0.3877", b"0.9999")
    with pytest.raises(ValueError, match=f"expected {DIGEST}"):
        download_qm9(tmp_path, url=server.url, sha256=DIGEST)
    assert list(tmp_path.iterdir()) == []


def test_file_that_changed_after_first_use_is_refused(server, tmp_path):
    path = download_qm9(tmp_path, url=server.url)
    path.write_bytes(CONTENT + b"gdb_2,N,0,0\n")
    with pytest.raises(ValueError, match=r"qm9\.csv has SHA-256 .*expected .*qm9\.csv\.sha256"):
        download_qm9(tmp_path, url=server.url)


def test_deleted_file_must_come_back_the_same(server, tmp_path):
    download_qm9(tmp_path, url=server.url).unlink()
    server.body = b"other"
    with pytest.raises(ValueError, match=f"expected {DIGEST}"):
        download_qm9(tmp_path, url=server.url)
    assert not (tmp_path / "qm9.csv").exists()


def test_file_put_there_by_hand_is_recorded(tmp_path):
    (tmp_path / "qm9.csv").write_bytes(CONTENT)
    assert download_qm9(tmp_path) == tmp_path / "qm9.csv"
    assert (tmp_path / "qm9.csv.sha256").read_text().split() == [DIGEST, "qm9.csv"]


def test_cut_download_is_refused(server, tmp_path):
    server.length = len(CONTENT) + 5
    with pytest.raises(ConnectionError, match="cannot download"):
        download_qm9(tmp_path, url=server.url)
    assert list(tmp_path.iterdir()) == []


def test_unreachable_says_where_to_put_the_file(server, tmp_path):
    for url in (server.url + "-absent", "http://127.0.0.1:1/qm9.csv"):
        with pytest.raises(ConnectionError, match="cannot download .*put it at .*qm9.csv"):
            download_qm9(tmp_path, url=url, timeout=5)
    assert list(tmp_path.iterdir()) == []


def test_malformed_arguments(tmp_path):
    with pytest.raises(ValueError, match="64 hexadecimal"):
        download_qm9(tmp_path, sha256="abc")
    with pytest.raises(ValueError, match="expected http"):
        download_qm9(tmp_path, url="file:///etc/passwd")
