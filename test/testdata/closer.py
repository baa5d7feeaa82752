"""Pin a file of a Holdfast volume, then end its descriptor in the way that is asked for.

    closer.py FILE HOW DATA CONTEXT [helper] [shared]

DATA and CONTEXT are the numbers that the data descriptor and the handle of the context have. With a
helper there is a second thread, which unpins when it is told "unpin". Shared, children could unpin, too.
"""
import array, fcntl, os, signal, socket, struct, subprocess, sys, threading

HELLO, ATTACH, ACQUIRE, REGISTER, PIN, UNPIN = 1, 2, 3, 6, 7, 8
HEADER = struct.Struct("<HHIII")


def call(s, op, body=b"", fds=()):
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    s.sendmsg([HEADER.pack(op, 0, 1, len(body), 0) + body], control)
    msg = s.recv(65536)
    status = HEADER.unpack_from(msg)[4]
    if status:
        sys.exit(f"{os.strerror(status)}: {msg[HEADER.size:].decode()}")
    return msg[HEADER.size:]


def connect(path):
    """Connects, with a descriptor above all others: none of them is closed before the data descriptor."""
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    above = socket.socket(fileno=fcntl.fcntl(s.fileno(), fcntl.F_DUPFD_CLOEXEC, 20))
    s.close()
    return above


def say(what):
    os.write(1, what.encode() + b"\n")


def closing(close):
    try:
        close()
        say("closed 0")
    except OSError as e:
        say(f"closed {e.errno}")


def fork_and_close(data):
    child = os.fork()
    if child == 0:
        os.close(data)
        os._exit(0)
    os.waitpid(child, 0)
    subprocess.run(["true"], close_fds=True)
    say("child closed")
    os.close(data)


def in_flight(data):
    a, b = socket.socketpair()
    a.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [data]))])
    closing(lambda: os.close(data))
    a.close()
    b.close()
    say("dropped")


def in_thread(data):
    t = threading.Thread(target=lambda: closing(lambda: os.close(data)))
    t.start()
    t.join()


def inherited(data):
    os.set_inheritable(data, True)
    os.execv(sys.executable, [sys.executable, "-c", f"import os; os.close({data}); os.write(1, b'closed 0\\n')"])


def main():
    path, how, data, context = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    file = os.open(path, os.O_RDWR)
    server = os.getxattr(file, "user.holdfast.socket").decode()
    session = connect(server)
    call(session, HELLO, struct.pack("<II", 1, "shared" in sys.argv))
    got = call(session, ACQUIRE, struct.pack("<QQBBHI", 0, 4096, 2, 1, 0, 0), [file])
    lease = struct.unpack_from("<Q", got)[0]
    lease_handle = connect(server)
    call(lease_handle, ATTACH, got[48:64])
    got = call(session, REGISTER, struct.pack("<IIII", 1, 0, 0, 0))
    number = struct.unpack_from("<Q", got)[0]
    handle = connect(server)
    call(handle, ATTACH, got[8:24])
    os.dup2(file, data, inheritable=False)
    os.close(file)
    os.dup2(handle.fileno(), context, inheritable=False)
    handle.close()
    pin = call(session, PIN, struct.pack("<QQQQB7x", number, lease, 0, 4096, 2))

    def help_out():
        if sys.stdin.readline() == "unpin\n":
            call(session, UNPIN, pin)

    if "helper" in sys.argv:
        threading.Thread(target=help_out, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: say("handled"))
    say("ready")
    if how == "sleep":
        signal.pause()
    {
        "close": lambda: closing(lambda: os.close(data)),
        "dup2": lambda: closing(lambda: os.dup2(os.open("/dev/null", os.O_RDWR), data)),
        "exit": lambda: os._exit(0),
        "thread": lambda: in_thread(data),
        "fork": lambda: fork_and_close(data),
        "flight": lambda: in_flight(data),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "inherit": lambda: inherited(data),
    }[how]()
    os._exit(0)


main()
