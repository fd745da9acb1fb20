"""The real recorder: `fedora-messaging record`, which writes COUNT messages into FILE as JSON lines.

    fedora_record.py URL KEY COUNT FILE [--exchange E] [--ca F] [--cert F --key F]

It prints {"ready": true} once it records, the log lines of fedora_cli.py, if any, and ends with {"exit": STATUS},
which is its exit status too; FILE is complete then. It ends, with no such line, at the end of stdin.
"""

import sys
import uuid

from fedora_cli import die_with_parent, parser, queue, run, say


def main():
    arguments = parser(__doc__)
    arguments.add_argument("key")
    arguments.add_argument("count")
    arguments.add_argument("file")
    args = arguments.parse_args()
    die_with_parent()
    settings = queue(f"record-{uuid.uuid4()}", args.exchange, args.key)
    status = run(args, ["record", "--limit", args.count, args.file], **settings)
    say({"exit": status})
    return status


if __name__ == "__main__":
    sys.exit(main())
