#!/usr/bin/env python3
"""Checks an audit log: python3 audit-verify.py /var/lib/holdup/audit.db [SEQUENCE:HASH ...]
A head (SEQUENCE:HASH, 8 digits at least) that left the gateway shows whether the end was cut.
"attempt to write a readonly database": the agent was killed in the middle of an entry. Start it
once, or copy audit.db and audit.db-journal elsewhere, run `sqlite3 COPY .schema`, check the copy."""
import hashlib, sqlite3, sys
last, head, wanted = 0, "0" * 64, set(sys.argv[2:])
log = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
for row in log.execute("SELECT sequence, wall, mono_ms, boot, synchronised, actor, action, "
                       "details, previous, hash FROM audit ORDER BY sequence"):
    fields = [str(f).encode() for f in ("holdup-audit-1", *row[:9])]
    form = b"".join(b"%d:%s," % (len(f), f) for f in fields)
    whole = row[9] == hashlib.sha256(form).hexdigest() and row[6] != "audit.break"
    if not whole or row[0] != last + 1 or row[8] != head:
        sys.exit(f"BROKEN at entry {row[0]}, behind entry {last}: {row}")
    last, head = row[0], row[9]
    wanted -= {w for w in wanted if f"{last}:{head}".startswith(w) and len(w) > len(f"{last}:") + 7}
if wanted:
    sys.exit(f"CUT: the log does not hold {', '.join(wanted)}")
print(f"{last} entries, unbroken; head {last}:{head}")
