"""fakeredis' TCP server as a process, for machines without redis-server."""

import sys

from fakeredis import TcpFakeServer


def main() -> None:
    """Serve on the loopback port given as the first argument until the process is stopped."""
    server = TcpFakeServer(("127.0.0.1", int(sys.argv[1])), server_type="redis")
    server.serve_forever()


if __name__ == "__main__":
    main()
