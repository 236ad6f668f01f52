"""Every rule of the product, as pure functions: no I/O, no clock, no randomness.

`rounds.decide` is the story of one round. It asks, in this order: what is each node's state (`evidence`)? may
we act at all (`guards`)? who can be recovered and where (`protection`, `replicas`, `placement` with its
engine `placing`, asked about a `situation`)? then says what to do: `fence` and take over (`failover`, with
what is told of `losses`), stop less important guests where more important ones find no room (`preemption`),
empty nodes (`maintenance`) if the others can afford it (`capacity`), put back under native HA (`adoption`),
keep guests registered there (`registration`), let replication run again (`holds`); and tells it to users
(`report`). What has to be remembered from round to round is in `memory`; an empty memory is never bolder than
a full one.

Rules are cited as in docs/safety.md (S1-S20).
"""
