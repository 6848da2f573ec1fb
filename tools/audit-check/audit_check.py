#!/usr/bin/env python3
"""Checks an export, a proof or an anchor of Abunfi's audit trail, offline.

Written from docs/audit-format.md alone and shares no code with the platform: that both agree says that the
document is right. Python 3 and its standard library, nothing else.

    audit_check.py FILE [--public-key HEX]... [--anchor FILE]

With --anchor FILE must hold that published checkpoint. Exits with 0 if everything agrees, 1 if not, 2 if a
file cannot be read.
"""

import hashlib
import json
import sys
import uuid

ZEROS = bytes(32)


def sha256(data):
    return hashlib.sha256(data).digest()


# --- Ed25519, RFC 8032, section 5.1 -----------------------------------------------------------------

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def point_add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def point_mul(scalar, point):
    result = (0, 1, 1, 0)
    while scalar > 0:
        if scalar & 1:
            result = point_add(result, point)
        point = point_add(point, point)
        scalar >>= 1
    return result


def point_equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def recover_x(y, sign):
    if y >= P:
        return None
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P != 0:
        x = x * SQRT_M1 % P
    if (x * x - x2) % P != 0:
        return None
    return P - x if (x & 1) != sign else x


def decompress(data):
    y = int.from_bytes(data, "little")
    sign = y >> 255
    y &= (1 << 255) - 1
    x = recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


BASE_Y = 4 * pow(5, P - 2, P) % P
BASE_X = recover_x(BASE_Y, 0)
BASE = (BASE_X, BASE_Y, 1, BASE_X * BASE_Y % P)


def signature_holds(public_key, message, signature):
    if len(public_key) != 32 or len(signature) != 64:
        return False
    a = decompress(public_key)
    r = decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= ORDER:
        return False
    digest = hashlib.sha512(signature[:32] + public_key + message).digest()
    h = int.from_bytes(digest, "little") % ORDER
    return point_equal(point_mul(s, BASE), point_add(r, point_mul(h, a)))


# --- Bytes that are hashed ----------------------------------------------------------------------------


def field(value):
    """One field: bytes, a text, a UUID, an integer, or None."""
    if value is None:
        return b"\x00"
    if isinstance(value, int):
        value = value.to_bytes(8, "big", signed=True)
    elif isinstance(value, str):
        value = value.encode()
    elif isinstance(value, uuid.UUID):
        value = value.bytes
    return b"\x01" + len(value).to_bytes(4, "big") + value


def fields(*values):
    return b"".join(field(value) for value in values)


def optional(kind, value):
    return None if value is None else kind(value)


def row_bytes(row):
    """What a row's hash is over."""
    amount = lambda name: optional(int, row[name + "_micros"])  # noqa: E731
    return (
        b"abunfi.audit.v1\n"
        + bytes.fromhex(row["previous_hash"])
        + fields(
            uuid.UUID(row["user_id"]),
            row["chain"],
            int(row["seq"]),
            optional(uuid.UUID, row["transaction_id"]),
            row["action"],
            row["previous_status"],
            row["new_status"],
            amount("amount"),
            amount("shares"),
            amount("available_after"),
            amount("locked_after"),
            amount("shares_after"),
            amount("locked_shares_after"),
            row["actor_kind"],
            row["actor_id"],
            optional(uuid.UUID, row["actor_session_id"]),
            row["request_id"],
            int(row["at_micros"]),
            optional(bytes.fromhex, row["reason_commitment"]),
            optional(bytes.fromhex, row["data_commitment"]),
        )
    )


def leaf_hash(user_id, chain, seq, head):
    content = b"abunfi.leaf.v1\n" + fields(uuid.UUID(user_id), chain, seq, head)
    return sha256(b"\x00" + content)


def node_hash(left, right):
    return sha256(b"\x01" + left + right)


def checkpoint_bytes(ledger_id, checkpoint):
    return b"abunfi.checkpoint.v1\n" + fields(
        uuid.UUID(ledger_id),
        int(checkpoint["number"]),
        bytes.fromhex(checkpoint["previous_hash"]),
        int(checkpoint["size"]),
        bytes.fromhex(checkpoint["root"]),
        int(checkpoint["covered_rows"]),
        int(checkpoint["at_micros"]),
    )


class Tree:
    """All levels of the tree; a change of one leaf changes one node on each."""

    def __init__(self):
        self.levels = [[]]

    def size(self):
        return len(self.levels[0])

    def put(self, index, value):
        level = 0
        while True:
            if level == len(self.levels):
                self.levels.append([])
            nodes = self.levels[level]
            if index < len(nodes):
                nodes[index] = value
            elif index == len(nodes):
                nodes.append(value)
            else:
                raise ValueError("a leaf before it is missing")
            if len(nodes) == 1:
                return
            left = index & ~1
            alone = left + 1 == len(nodes)
            value = nodes[left] if alone else node_hash(nodes[left], nodes[left + 1])
            index //= 2
            level += 1

    def root(self):
        return self.levels[-1][0] if self.levels[0] else sha256(b"")


def root_of_path(index, size, value, path):
    last = size - 1
    if index < 0 or index > last:
        return None
    for sibling in path:
        if last == 0:
            return None
        if index % 2 == 1 or index == last:
            value = node_hash(sibling, value)
            while index % 2 == 0 and index != 0:
                index //= 2
                last //= 2
        else:
            value = node_hash(value, sibling)
        index //= 2
        last //= 2
    return value if last == 0 else None


# --- Checks -------------------------------------------------------------------------------------------


class Report:
    def __init__(self, trusted):
        self.trusted = trusted
        self.anchor = None
        self.is_met = False
        self.anchored = None
        self.findings = []
        self.rows = 0
        self.chains = 0
        self.checkpoints = 0
        self.checkpoint = 0
        self.signed_from = None
        self.was_signed = False
        self.not_covered = 0
        self.chains_not_covered = 0
        self.since = 0

    def found(self, text):
        self.findings.append(text)

    def take_checkpoint(self, ledger_id, checkpoint):
        self.checkpoints += 1
        self.checkpoint = checkpoint["number"]
        name = "checkpoint %d" % checkpoint["number"]
        content = checkpoint_bytes(ledger_id, checkpoint)
        if sha256(content).hex() != checkpoint["hash"]:
            self.found(name + ": its hash is not that of its content")
        key, signature = checkpoint["public_key"], checkpoint["signature"]
        if (key is None) != (signature is None):
            self.found(name + ": half a signature")
        elif key is not None and not signature_holds(
            bytes.fromhex(key), content, bytes.fromhex(signature)
        ):
            self.found(name + ": its signature is not over its content")
        if key is None or signature is None:
            if self.trusted and self.signed_from is not None:
                self.was_signed = True
                self.found(name + ": it is not signed, though the one before is")
            self.signed_from = None
        elif self.signed_from is None:
            self.signed_from = checkpoint["number"]
        if self.trusted and key is not None and key not in self.trusted:
            self.found(name + ": it is not signed by a key that is trusted")
        if self.anchor is not None and checkpoint["number"] == self.anchor["checkpoint"]["number"]:
            self.is_met = True
            self.compare_anchor(ledger_id, checkpoint, name)

    def compare_anchor(self, ledger_id, checkpoint, name):
        published = self.anchor["checkpoint"]
        if uuid.UUID(ledger_id) != uuid.UUID(self.anchor["ledger_id"]):
            self.found("%s: it was published by ledger %s" % (name, self.anchor["ledger_id"]))
            return
        for what in ("root", "hash"):
            if bytes.fromhex(checkpoint[what]) != bytes.fromhex(published[what]):
                self.found("%s: it was published with the %s %s" % (name, what, published[what]))
                return
        self.anchored = checkpoint["number"]

    def finish(self):
        # Each hash covers the checkpoint before, so the first signature vouches for those before it.
        if self.trusted and self.checkpoints and self.signed_from is None and not self.was_signed:
            self.found("checkpoint %d: it is the newest, and is not signed" % self.checkpoint)
        if self.anchor is not None and not self.is_met:
            published = self.anchor["checkpoint"]
            self.found(
                "checkpoint %d: it was published, with the root %s, and is not here"
                % (published["number"], published["root"])
            )

    def not_anchored(self):
        """How many checkpoints came after the published one."""
        return None if self.anchored is None else max(self.checkpoint - self.anchored, 0)


class Walk:
    """The rows of a chain, one after the other."""

    def __init__(self, seq=0, value=ZEROS):
        self.seq, self.hash, self.at = seq, value, None

    def step(self, row):
        wrong = None
        if row["seq"] != self.seq + 1:
            wrong = "row %d is missing" % (self.seq + 1)
        elif bytes.fromhex(row["previous_hash"]) != self.hash:
            wrong = "row %d does not follow the one before" % row["seq"]
        elif sha256(row_bytes(row)).hex() != row["hash"]:
            wrong = "row %d does not have the hash of its content" % row["seq"]
        elif self.at is not None and row["at_micros"] < self.at:
            wrong = "row %d is older than the one before" % row["seq"]
        self.seq, self.hash, self.at = row["seq"], bytes.fromhex(row["hash"]), row["at_micros"]
        return wrong


def check_proof(proof, report):
    ledger, user, checkpoint = proof["ledger_id"], proof["user_id"], proof["checkpoint"]
    report.take_checkpoint(ledger, checkpoint)
    for chain in proof["chains"]:
        report.chains += 1
        name, inclusion = "chain " + chain["chain"], chain["inclusion"]
        report.chains_not_covered += inclusion is None
        walk, covered = Walk(), 0
        if inclusion is not None:
            covered = inclusion["seq"]
            value = leaf_hash(user, chain["chain"], covered, bytes.fromhex(inclusion["hash"]))
            path = [bytes.fromhex(sibling) for sibling in inclusion["path"]]
            found = root_of_path(inclusion["leaf"], checkpoint["size"], value, path)
            if found is None or found.hex() != checkpoint["root"]:
                report.found(name + ": it is not in the checkpoint's tree")
        for row in chain["rows"]:
            report.rows += 1
            report.not_covered += row["seq"] > covered
            if (row["user_id"], row["chain"]) != (user, chain["chain"]):
                report.found(name + ": a row of another chain")
            wrong = walk.step(row)
            if wrong:
                report.found(name + ": " + wrong)
            if row["seq"] == covered and row["hash"] != inclusion["hash"]:
                report.found(name + ": the checkpoint has another hash for row %d" % covered)
        if walk.seq < covered:
            report.found(name + ": it is shorter than the checkpoint says")


COUNTERPART = {
    "deposit": "custody",
    "withdraw": "custody",
    "yield_harvest": "yield",
    "referral_bonus": "promotions",
}
TOTAL = {
    "deposit": "deposited_micros",
    "withdraw": "withdrawn_micros",
    "yield_harvest": "yield_earned_micros",
    "referral_bonus": "bonuses_micros",
}


# Only rows of accounts' chains have one of these; an amount alone may be a price.
OF_MONEY = (
    "transaction_id",
    "shares_micros",
    "available_after_micros",
    "locked_after_micros",
    "shares_after_micros",
    "locked_shares_after_micros",
)


def after_row(held, row, kind, amount, shares):
    """Available, locked, shares, locked shares after a row."""
    available, locked, own, own_locked = held
    status, is_first = row["new_status"], row["action"].startswith("post_")
    if kind != "withdraw":
        if status == "confirmed":
            return [available + amount, locked, own + shares, own_locked]
        return held
    if row["action"] == "submit":
        return held
    if status == "confirmed" and is_first:
        return [available - amount, locked, own - shares, own_locked]
    if status == "confirmed":
        return [available, locked - amount, own, own_locked - shares]
    if status == "pending":
        return [available - amount, locked + amount, own - shares, own_locked + shares]
    return [available + amount, locked - amount, own + shares, own_locked - shares]


class Batch:
    def __init__(self):
        self.heads = {}
        self.walks = {}
        self.held = {}
        self.without_account = set()
        self.transactions = {}


class Books:
    def __init__(self, header, report):
        self.report = report
        self.ledger = header["ledger_id"]
        self.since = report.since = header["since"]
        self.newest = header["checkpoint"]
        self.checkpoints = []
        self.leaves = []
        self.tree = Tree()
        self.replaying = 0
        self.seqs = []
        self.known = {}
        self.starts = {}
        self.batch = None
        self.last_user = b""

    def take(self, line):
        getattr(self, "take_" + line["type"])(line)

    def take_checkpoint(self, line):
        self.report.take_checkpoint(self.ledger, line)
        name = "checkpoint %d" % line["number"]
        if self.checkpoints:
            before = self.checkpoints[-1]
            if line["number"] != before["number"] + 1 or line["previous_hash"] != before["hash"]:
                self.report.found(name + " does not follow the one before")
            if (
                line["size"] < before["size"]
                or line["covered_rows"] <= before["covered_rows"]
                or line["at_micros"] < before["at_micros"]
            ):
                self.report.found(name + " goes back")
        elif self.since == 0 and (line["number"], line["previous_hash"]) != (1, ZEROS.hex()):
            self.report.found(name + " is not the first")
        self.checkpoints.append(line)

    def take_leaf(self, line):
        if line["leaf"] != len(self.leaves):
            self.report.found("leaf %d is not in its place" % line["leaf"])
        self.leaves.append((line["user_id"], line["chain"]))

    def take_change(self, line):
        while (
            self.replaying < len(self.checkpoints)
            and line["checkpoint"] > self.checkpoints[self.replaying]["number"]
        ):
            self.end_checkpoint()
        index, seq, value = line["leaf"], line["seq"], bytes.fromhex(line["hash"])
        if index >= len(self.leaves):
            self.report.found("leaf %d is nobody's" % index)
            return
        key = self.leaves[index]
        try:
            self.tree.put(index, leaf_hash(key[0], key[1], seq, value))
        except ValueError as error:
            self.report.found("leaf %d: %s" % (index, error))
            return
        if index == len(self.seqs):
            self.seqs.append(0)
        if seq <= self.seqs[index]:
            self.report.found("leaf %d goes back" % index)
        self.seqs[index] = seq
        self.known.setdefault(key, {})[seq] = line["hash"]
        if line["checkpoint"] <= self.since:
            self.starts[key] = (seq, value)

    def end_checkpoint(self):
        checkpoint = self.checkpoints[self.replaying]
        name = "checkpoint %d" % checkpoint["number"]
        if self.tree.root().hex() != checkpoint["root"] or self.tree.size() != checkpoint["size"]:
            self.report.found(name + ": its leaves make another root")
        if sum(self.seqs) != checkpoint["covered_rows"]:
            self.report.found(name + ": its leaves cover another number of rows")
        self.replaying += 1

    def take_batch(self, _line):
        self.end_batch()
        self.batch = Batch()

    def take_account(self, line):
        key = (line["user_id"], line["chain"])
        if key in self.batch.heads:
            self.report.found("user %s, chain %s: its head is there twice" % key)
            return
        self.batch.heads[key] = line
        self.batch.walks[key] = Walk(*self.starts.get(key, (0, ZEROS)))
        if line["type"] == "account":
            self.batch.held[key] = [0, 0, 0, 0] if self.since == 0 else None
        elif line["chain"] not in ("user", "system") and not line["chain"].startswith("asset:"):
            self.without_account(key)

    def without_account(self, key):
        if key not in self.batch.without_account:
            self.batch.without_account.add(key)
            self.report.found("user %s, chain %s: it is an account's, and there is no account" % key)

    take_chain = take_account

    def take_row(self, row):
        key = (row["user_id"], row["chain"])
        head = self.batch.heads.get(key)
        if head is None or row["seq"] > head["seq"]:
            return
        self.report.rows += 1
        place = "user %s, chain %s" % key
        wrong = self.batch.walks[key].step(row)
        if wrong:
            self.report.found(place + ": " + wrong)
        known = self.known.get(key, {})
        if known.get(row["seq"], row["hash"]) != row["hash"]:
            self.report.found(place + ": a checkpoint has another hash for row %d" % row["seq"])
        if row["seq"] > max(known, default=0):
            self.report.not_covered += 1
        if key in self.batch.held:
            self.take_money(key, row, place + ", row %d" % row["seq"])
        elif any(row[name] is not None for name in OF_MONEY):
            self.without_account(key)

    def take_money(self, key, row, place):
        if row["transaction_id"] is None:
            self.report.found(place + ": it is of no transaction")
            return
        name = (key[0], row["transaction_id"])
        amount, shares = int(row["amount_micros"]), int(row["shares_micros"])
        transaction = self.batch.transactions.get(name)
        if row["action"].startswith("post_"):
            if transaction is not None or row["previous_status"] is not None:
                self.report.found(place + ": it is posted twice")
            if row["action"][len("post_") :] not in TOTAL:
                self.report.found(place + ": there is no such type")
            transaction = {
                "kind": row["action"][len("post_") :],
                "asset": key[1],
                "amount": amount,
                "shares": shares,
                "is_there": False,
                "entries": {},
            }
            self.batch.transactions[name] = transaction
        elif transaction is None:
            if self.since == 0:
                self.report.found(place + ": it was never posted")
            return
        elif (row["previous_status"], transaction["status"]) != ("pending", "pending") or (
            amount,
            shares,
        ) != (transaction["amount"], transaction["shares"]):
            self.report.found(place + ": it does not follow from the rows before")
        transaction["status"] = row["new_status"]
        after = [
            optional(int, row[name + "_after_micros"])
            for name in ("available", "locked", "shares", "locked_shares")
        ]
        held = self.batch.held[key]
        if held is not None:
            expected = after_row(held, row, transaction["kind"], amount, shares)
            if after != expected:
                self.report.found(place + ": the account should hold %s" % expected)
        self.batch.held[key] = after

    def take_transaction(self, line):
        transaction = self.batch.transactions.get((line["user_id"], line["transaction_id"]))
        if transaction is None:
            return
        transaction["is_there"] = True
        says = (line["kind"], line["asset"], int(line["amount_micros"]), int(line["shares_micros"]))
        should = tuple(transaction[name] for name in ("kind", "asset", "amount", "shares"))
        if says != should or transaction["status"] not in ("pending", line["status"]):
            self.report.found(
                "user %s, transaction %s: the trail says something else"
                % (line["user_id"], line["transaction_id"])
            )

    def take_entry(self, line):
        name = (line["user_id"], line["transaction_id"])
        transaction = self.batch.transactions.get(name)
        if transaction is None:
            return
        if line["asset"] != transaction["asset"] or line["account"] in transaction["entries"]:
            self.report.found("user %s, transaction %s: an entry is not of it" % name)
        transaction["entries"][line["account"]] = int(line["amount_micros"])

    def end_batch(self):
        while self.replaying < len(self.checkpoints):
            self.end_checkpoint()
        batch, self.batch = self.batch, None
        if batch is None:
            return
        users = [uuid.UUID(user).bytes for user, _ in batch.heads] or [self.last_user]
        if self.last_user and min(users) <= self.last_user and batch.heads:
            self.report.found("a user does not come after the batch before")
        self.last_user = max(users)
        totals = {}
        for (user, name), transaction in sorted(batch.transactions.items()):
            if self.since > 0:
                break
            place = "user %s, transaction %s" % (user, name)
            if not transaction["is_there"]:
                self.report.found(place + ": it is in the trail only")
            kind, amount = transaction["kind"], transaction["amount"]
            own = -amount if kind == "withdraw" else amount
            legs = {"user": own, COUNTERPART.get(kind, "?"): -own}
            confirmed = transaction["status"] == "confirmed"
            allowed = [legs] if confirmed else [{}]
            if transaction["status"] == "pending":
                allowed.append(legs)
            if transaction["entries"] not in allowed:
                self.report.found(place + ": it should have other entries")
            if confirmed:
                total = totals.setdefault((user, transaction["asset"]), {})
                total[TOTAL.get(kind, "?")] = total.get(TOTAL.get(kind, "?"), 0) + amount
                total["entries"] = total.get("entries", 0) + transaction["entries"].get("user", 0)
        for key, head in batch.heads.items():
            self.report.chains += 1
            place = "user %s, chain %s" % key
            walk = batch.walks[key]
            if (walk.seq, walk.hash.hex()) != (head["seq"], head["hash"]):
                self.report.found(place + ": its newest row is not its head")
            covered = max(self.known.pop(key, {}), default=0)
            if covered > walk.seq:
                self.report.found(place + ": it is shorter than a checkpoint says")
            if head["type"] == "account":
                self.check_account(key, head, batch.held[key], totals.get(key, {}))

    def check_account(self, key, account, held, totals):
        names = ("available", "locked", "shares", "locked_shares")
        has = [int(account[name + "_micros"]) for name in names]
        if held is not None and has != held:
            self.report.found("user %s, account %s: it should hold %s" % (*key, held))
        if int(account["fees_micros"]) != 0:
            self.report.found("user %s, account %s: fees should be 0" % key)
        if self.since > 0:
            return
        for name in TOTAL.values():
            if int(account[name]) != totals.get(name, 0):
                self.report.found("user %s, account %s: %s should be %d" % (*key, name, totals.get(name, 0)))
        if has[0] + has[1] != totals.get("entries", 0):
            self.report.found("user %s, account %s: it is not the sum of its entries" % key)

    def finish(self):
        self.end_batch()
        if self.since > 0 and (not self.checkpoints or self.checkpoints[0]["number"] != self.since):
            self.report.found("it does not begin with the header's checkpoint")
        last = self.checkpoints[-1]["number"] if self.checkpoints else 0
        if last != self.newest:
            self.report.found("the newest checkpoint is not the header's")
        if self.report.trusted and not self.checkpoints:
            self.report.found("no checkpoint is signed by a key that is trusted: there is none")
        for key in sorted(self.known):
            self.report.found("user %s, chain %s: a checkpoint covers it, and it is not there" % key)


def check(file, report):
    first = file.readline()
    try:
        header = json.loads(first)
    except ValueError:
        header = None
    if isinstance(header, dict) and header.get("type") == "header":
        if header["format"] != "abunfi.export.v1":
            raise ValueError("an unknown format")
        books, count = Books(header, report), 1
        for text in file:
            line = json.loads(text)
            if line["type"] == "end":
                if line["lines"] != count:
                    raise ValueError("lines are missing or too many")
                books.finish()
                return
            books.take(line)
            count += 1
        raise ValueError("the last line is missing")
    document = json.loads(first + file.read())
    if document.get("format") == "abunfi.proof.v1":
        check_proof(document, report)
    elif document.get("format") == "abunfi.anchor.v1":
        report.take_checkpoint(document["ledger_id"], document["checkpoint"])
    else:
        raise ValueError("an unknown format")


def read_anchor(name):
    """A published checkpoint. It proves by having been published, so whoever signed it does not matter."""
    with open(name, encoding="utf-8") as file:
        anchor = json.load(file)
    if anchor["format"] != "abunfi.anchor.v1":
        raise ValueError("an unknown format")
    content = checkpoint_bytes(anchor["ledger_id"], anchor["checkpoint"])
    if sha256(content).hex() != anchor["checkpoint"]["hash"]:
        raise ValueError("its hash is not that of its content")
    return anchor


UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def main(arguments):
    files, trusted, anchors = [], set(), []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--public-key":
            trusted.add(next(rest, "").lower())
        elif argument == "--anchor":
            anchors.append(next(rest, ""))
        else:
            files.append(argument)
    if len(files) != 1 or len(anchors) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    report = Report(trusted)
    for name in anchors:
        try:
            report.anchor = read_anchor(name)
        except UNREADABLE as error:
            print("%s is no anchor: %r" % (name, error), file=sys.stderr)
            return 2
    try:
        with open(files[0], encoding="utf-8") as file:
            check(file, report)
        report.finish()
    except UNREADABLE as error:
        print("%s cannot be checked: %r" % (files[0], error), file=sys.stderr)
        return 2
    for finding in report.findings:
        print(finding)
    print(
        json.dumps(
            {
                "clean": not report.findings,
                "disagreements": len(report.findings),
                "checkpoint": report.checkpoint,
                "checkpoints": report.checkpoints,
                "signed_from": report.signed_from,
                "chains": report.chains,
                "rows": report.rows,
                "rows_not_covered": report.not_covered,
                "chains_not_covered": report.chains_not_covered,
                "since": report.since,
                "anchored": report.anchored,
                "not_anchored": report.not_anchored(),
            }
        )
    )
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
