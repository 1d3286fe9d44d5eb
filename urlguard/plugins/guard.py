"""
guard: answer queries for blocked names, and check upstream answers for blocked targets.

Runs above the plugins that cache or fetch upstream answers, so that a new policy acts on the next
query.  Checks answers on their way back: the targets of CNAME, DNAME, SVCB and HTTPS records are
looked up like queried names.  Knows the engine, the classifier policy and the wire format; knows
nothing of sockets or feeds.

A queried name that no rule covers is scored, by ``[classify]``; a block by score gets the same
answer as a listed name, from the same code.  Targets of answers are not scored: most are names of
content networks, which no person reads, so a score would say little, cost as much as the answer and
break unrelated sites.

Queries for types beside a site's address, such as MX or TXT, are not scored.  But a name that the
model is known to block is blocked for every type, like a listed name.

Rules in shadow that would apply to the client are noted in the exchange and counted with the
answer; they change nothing.

The block answer, by ``[guard] answer`` or the segment's ``answer``, and by query type:

    mode       A, ANY         AAAA           SOA      any other type
    sinkhole   sinkhole_ipv4  sinkhole_ipv6  the SOA  NODATA
    zero       0.0.0.0        ::             the SOA  NODATA
    nodata     NODATA for every type
    nxdomain   NXDOMAIN for every type
    refused    REFUSED for every type

Every type is answered here, because an HTTPS or CNAME record from upstream would bypass the block.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from urlguard import config
from urlguard.classify.policy import CATEGORY, KIND, ActiveModels, ClassifierPolicy, own_zones
from urlguard.plugins.base import Answer, Exchange, Local, Parts
from urlguard.verdict import FEED, Ruling
from urlguard.wire import answer
from urlguard.wire.query import AAAA, ANY, NXDOMAIN, REFUSED, SOA, A
from urlguard.wire.reply import Reply

if TYPE_CHECKING:
    from urlguard.engine import ActiveEngine

CANARY: Final = "canary"  # the category of the name that is always blocked

# Types by which somebody goes to a site; a query for any other costs no score.
CNAME, SVCB, HTTPS = 5, 64, 65
MODELLED: Final = frozenset((A, AAAA, CNAME, SVCB, HTTPS, ANY))


class _ReplyRulings(NamedTuple):
    """The rulings of one generation of the policy on the targets of a reply."""

    generation: object
    blocks: tuple[Ruling, ...]
    reviews: tuple[Ruling, ...]
    shadows: tuple[Ruling, ...]
    additional: tuple[Ruling, ...]  # that block owners of additional records
    bare: Reply | None  # the reply without those


class Guard(Local):
    """
    Look up each queried name in the policy and answer for the blocked ones.

    Args:
        active: the engine in force.
        options: ``[guard]``.
        regulators: sources (``feed:NAME``) that carry a regulator's order.
        segments: those with a policy of their own.
        classifier: asked about names without a rule; None if there is no model for anybody.
        mode: what it may do, where a segment does not say.

    ``counters``: ``answers_blocked``, upstream answers that led to a blocked name, and
    ``additional_removed``, those that only mentioned one.
    """

    name = "guard"
    cacheable = True

    def __init__(
        self,
        active: "ActiveEngine",
        options: config.Guard,
        regulators: Collection[str],
        segments: Iterable[config.Segment] = (),
        classifier: ClassifierPolicy | None = None,
        mode: str = "block",
    ) -> None:
        self.classifier = classifier
        self.counters: Counter[str] = Counter()
        self._active = active
        censored = frozenset(regulators)
        self._usual = _BlockPolicy(options, censored, mode)
        self._policies = {s.name: _BlockPolicy(options, censored, mode, s) for s in segments}
        self.canary = options.canary
        self._canary_ruling = Ruling("block", CANARY, ("operator",), 0, "domain", options.canary)
        self._generation = object()  # another one after each change
        self._shadow = active.engine.shadow()
        active.subscribe(self._changed)

    @classmethod
    def from_config(cls, table: config.Guard, parts: Parts) -> Self:
        """The plugin for ``[guard]``, with the regulators among the feeds, and the segments."""
        regulators = [FEED + feed.name for feed in parts.config.feed if feed.regulator]
        whole = parts.config
        modes = {whole.classify.mode, *(s.classify for s in whole.segment)} - {None, "off"}
        classifier = None
        if modes:
            models = ActiveModels() if parts.models is None else parts.models
            classifier = ClassifierPolicy(models, own_zones(whole), whole.classify.shadow_share)
        return cls(parts.active, table, regulators, whole.segment, classifier, whole.classify.mode)

    def on_query(self, x: Exchange) -> Answer | None:
        """The block answer if the name is blocked."""
        engine = self._active.engine
        name = x.query.name
        if self._shadow is not None:
            self._note(x, self._shadow.covering(name))
        ruling = engine.decide(name)
        if name == self.canary:
            ruling = self._canary_ruling  # after the engine was asked: it must be able to answer
        if ruling is None:
            if self.classifier is None:
                return None
            ruling = self._modelled(self.classifier, x)
            if ruling is None:
                return None
        if ruling.action == "block":
            who = x.client
            segment = None if who is None else who.segment
            policy = self._usual if segment is None else self._policies[segment.name]
            if (policy.blocks(ruling) and not engine.paused) or ruling is self._canary_ruling:
                return Answer(policy.wire(x, ruling), "guard", ruling)
            if ruling.kind == KIND and self.classifier is not None:
                self.classifier.passed(name)
            return None
        x.ruling = ruling
        return None

    def on_answer(self, x: Exchange, a: Answer) -> Answer:
        """The block answer in place of an answer with a blocked target."""
        allowed = x.ruling
        if allowed is not None:
            if allowed.action == "review":
                a.ruling = allowed
            elif allowed.operator:
                return a  # people who let a name through mean all of it
        reply = a.reply
        if reply is None or not (reply.targets or reply.additional_owners):
            return a
        judged: _ReplyRulings = reply.judged
        if judged is None or judged.generation is not self._generation:
            judged = reply.judged = self._rulings_on(reply)
        if judged.shadows:
            self._note(x, judged.shadows)
        if not (judged.blocks or judged.additional or judged.reviews):
            return a
        return self._act_on(x, a, reply, judged)

    def adopt(self, old: "Guard") -> None:
        """Take over the classifier's outcomes and suspects from the previous configuration."""
        if self.classifier is not None and old.classifier is not None:
            self.classifier.adopt(old.classifier)

    def close(self) -> None:
        """Unsubscribe from changes of policy."""
        self._active.unsubscribe(self._changed)

    def _modelled(self, classifier: ClassifierPolicy, x: Exchange) -> Ruling | None:
        """The model's ruling on a name without a rule."""
        segment = None if x.client is None else x.client.segment
        policy = self._usual if segment is None else self._policies[segment.name]
        mode = policy.classify
        if mode in ("block", "review") and x.query.qtype in MODELLED:
            return classifier.ruling(x.query.name, mode)
        # A score that the model has already computed for the name costs nothing.
        return classifier.remembered(x.query.name) if mode in ("block", "pass") else None

    def _changed(self, names: Collection[str] | None = None) -> None:
        self._generation = object()
        self._shadow = self._active.engine.shadow()

    def _note(self, x: Exchange, shadows: Iterable[Ruling]) -> None:
        """Note the rules in shadow that would be in force for the client, each once."""
        segment = None if x.client is None else x.client.segment
        policy = self._usual if segment is None else self._policies[segment.name]
        mine = [ruling for ruling in shadows if policy.blocks(ruling)]
        if mine:
            x.shadows = list(dict.fromkeys([*(x.shadows or ()), *mine]))

    def _rulings_on(self, reply: Reply) -> _ReplyRulings:
        decide = self._active.engine.decide
        found = [ruling for name in reply.targets if (ruling := decide(name))]
        additional = [ruling for name in reply.additional_owners if (ruling := decide(name))]
        blocks = tuple(r for r in found if r.action == "block")
        reviews = tuple(r for r in found if r.action == "review")
        mentioned = tuple(r for r in additional if r.action == "block")
        bare = reply.without_additional() if mentioned else None
        shadow = self._shadow
        shadows: list[Ruling] = []
        if shadow is not None:
            shadows = [ruling for name in reply.targets for ruling in shadow.covering(name)]
        return _ReplyRulings(self._generation, blocks, reviews, tuple(shadows), mentioned, bare)

    def _act_on(self, x: Exchange, a: Answer, reply: Reply, judged: _ReplyRulings) -> Answer:
        """The answer with its rulings applied: blocked, without additional records, or as it is."""
        if self._active.engine.paused:
            return a
        segment = None if x.client is None else x.client.segment
        policy = self._usual if segment is None else self._policies[segment.name]
        for ruling in judged.blocks:
            if policy.blocks(ruling):
                self.counters["answers_blocked"] += 1
                blocked = Answer(policy.wire(x, ruling), "guard", ruling)
                blocked.depends_on = reply.targets
                return blocked
        if any(map(policy.blocks, judged.additional)):
            self.counters["additional_removed"] += 1
            a.reply = judged.bare
        if judged.reviews and a.ruling is None:
            a.ruling = judged.reviews[0]
        return a


class _BlockPolicy:
    """How blocked names are answered for one group of clients, and which of them are blocked."""

    def __init__(
        self,
        options: config.Guard,
        regulators: frozenset[str],
        mode: str,
        segment: config.Segment | None = None,
    ) -> None:
        own = segment or config.Segment()
        self._mode = own.answer or options.answer
        self._ttl = options.block_ttl_s if own.block_ttl_s is None else own.block_ttl_s
        self._regulators = regulators
        self._filter = own.filter
        self._only = frozenset(own.categories)
        self._never = frozenset(own.pass_categories)
        self._all = own.filter and not self._only and not self._never
        # What the model may do: block, review or nothing (off).  Where its word is not in force no
        # name is scored, unless the segment asks for it (pass).
        self.classify = own.classify or mode
        idle = not own.filter or (own.classify is None and not self._in_force(CATEGORY))
        if idle and self.classify != "off":
            self.classify = "pass"
        self._forged: dict[int, list[bytes]] = {}
        if self._mode in ("sinkhole", "zero"):
            zero = self._mode == "zero"
            ipv4 = IPv4Address(0) if zero else own.sinkhole_ipv4 or options.sinkhole_ipv4
            ipv6 = IPv6Address(0) if zero else own.sinkhole_ipv6 or options.sinkhole_ipv6
            # One record is an answer to ANY (RFC 8482 section 4.1).
            self._forged = {A: [ipv4.packed], ANY: [ipv4.packed], AAAA: [ipv6.packed]}

    def blocks(self, ruling: Ruling) -> bool:
        """True if a block with this ruling applies to these clients."""
        return self._all or self._in_force(ruling.category)

    def _in_force(self, category: str) -> bool:
        if not self._filter:
            return False
        return category not in self._never and (not self._only or category in self._only)

    def wire(self, x: Exchange, ruling: Ruling) -> bytes:
        """The block answer."""
        # EDE 15 (Blocked) goes with answers that give nothing; where we still give a record the
        # code is 4 (Forged Answer).  A regulator's order is 16 (Censored) either way (RFC 8914):
        # the client should know that it was not the operator's choice.
        censored = not self._regulators.isdisjoint(ruling.sources)
        forged = answer.EDE_CENSORED if censored else answer.EDE_FORGED
        blocked = answer.EDE_CENSORED if censored else answer.EDE_BLOCKED
        if self._forged:
            records = self._forged.get(x.query.qtype)
            if records:
                return answer.addresses(x, records, self._ttl, forged)
            if x.query.qtype == SOA:
                return answer.soa(x, self._ttl, forged)
        elif self._mode == "refused":
            return answer.error(x, REFUSED, blocked)
        rcode = NXDOMAIN if self._mode == "nxdomain" else 0
        return answer.negative(x, self._ttl, rcode, blocked)
