"""fakeredis' TCP server as a process, where no redis-server is installed."""

import sys

from fakeredis import TcpFakeServer


def main() -> None:
    """Serve on the loopback port that is given, until the process is stopped."""
    server = TcpFakeServer(("127.0.0.1", int(sys.argv[1])), server_type="redis")
    server.serve_forever()


if __name__ == "__main__":
    main()
