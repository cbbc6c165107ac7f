"""What holds for the service as a whole: tenants apart, replies matched, nothing left behind."""

from __future__ import annotations

from tests.chaos.history import Accept, Cancel, Connect, Disconnect, Frame, Get, Refusal, Reply
from tests.chaos.history import Residue as ResidueFound
from tests.chaos.invariants.facts import NEVER, NS, Facts, Rules, Verdict


def check_isolation(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I14: nobody sees another tenant's bytes, and what is another's looks like what is not."""
    for frame in facts.of(Frame):
        verdict.checked += 1
        reader = facts.connections[frame.connection]
        if frame.owner not in {"", reader.tenant}:
            text = f"{reader.chain} of {reader.tenant} was told what is {frame.owner}'s"
            verdict.violate(frame.at, reader.turn, text)
    absent = {
        get.digest for get in facts.of(Get) if get.http == 404 and get.turn not in facts.owner
    }
    for get in facts.of(Get):
        verdict.checked += 1
        owner = facts.owner.get(get.turn, get.tenant)
        if get.owner not in {"", get.tenant}:
            verdict.violate(get.at, get.turn, f"{get.tenant} was told what is {get.owner}'s")
        elif get.outcome != "ok" or owner == get.tenant:
            continue
        elif get.http not in {401, 404}:
            verdict.violate(get.at, get.turn, f"{get.tenant} got {get.http} for {owner}'s turn")
        elif get.http == 404 and absent and get.digest not in absent:
            text = f"{get.tenant} can tell {owner}'s turn from one that does not exist"
            verdict.violate(get.at, get.turn, text)


def check_replies(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I15: every reply went to who asked for it."""
    for reply in facts.of(Reply):
        verdict.checked += 1
        if reply.told != reply.asked:
            text = f"{reply.link}: asked for {reply.asked}, was told {reply.told}"
            verdict.violate(reply.at, "", text)


def check_residue(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I22: at quiescence nothing is held, open or kept that was not before."""
    for residue in facts.of(ResidueFound):
        verdict.checked += 1
        if residue.found > residue.allowed:
            text = f"{residue.what}: {residue.found:g}, {residue.allowed:g} allowed"
            verdict.violate(residue.at, "", f"{text} {residue.detail}".rstrip())


def check_revocation(facts: Facts, rules: Rules, verdict: Verdict) -> None:
    """I23: soon after a revocation every request under it is refused and every stream closed."""
    grace = round(rules.revoked_within_s * NS)
    dead_at = {name: revoke.at + grace for name, revoke in facts.revoked_at.items()}
    verdict.checked += len(dead_at)
    if not dead_at:
        return
    requests: list[Accept | Cancel | Get | Connect | Refusal] = [
        *facts.of(Accept),
        *facts.of(Cancel),
        *facts.of(Get),
        *facts.of(Connect),
        *facts.of(Refusal),
    ]
    for request in requests:
        was_served = 0 < request.http < 500 and request.http != 401
        if was_served and request.began > dead_at.get(request.credential, NEVER):
            verdict.violate(request.at, "", f"{request.http} under a revoked credential")
    for name, connect in facts.connections.items():
        limit = dead_at.get(connect.credential)
        if limit is None or connect.outcome != "ok":
            continue
        end: Disconnect | None = facts.disconnects.get(name)
        last = max((frame.at for frame in facts.frames.get(name, ())), default=connect.at)
        if max(last, end.at if end is not None else last) > limit:
            verdict.violate(limit, connect.turn, f"{connect.chain} was open under it for too long")
