"""The real publisher: `fedora-messaging publish FILE`, FILE being its JSON lines, or - for stdin.

    fedora_publish.py URL FILE [--exchange E] [--prefix TOPIC_PREFIX] [--ca F] [--cert F --key F]

It prints the log lines of fedora_cli.py, if any, and ends with {"exit": STATUS}, which is its exit status too:
0, 1, 2 for a file that is not valid, 121 refused, 111 timed out. What the command prints itself is on stderr.
A line without "priority" (or null) it sends with priority 0.
"""

import sys

from fedora_cli import parser, run, say


def main():
    arguments = parser(__doc__)
    arguments.add_argument("file")
    arguments.add_argument("--prefix", default="")
    args = arguments.parse_args()
    status = run(args, ["publish", args.file], topic_prefix=args.prefix)
    say({"exit": status})
    return status


if __name__ == "__main__":
    sys.exit(main())
