"""Who goes where: the engine that `placement` asks for failovers, drains and "what if"
(docs/placing-engine.md).

A `problem.Problem` says what there is: nodes with what is left of them, the guests that run or shall run,
and groups that belong together or apart. `plan.plan` answers for a set of nodes thought away,
`singles.plan_each` for every node by itself and quickly again after a change, `admission.admit` for every
combination of `k` nodes or zones. `known` keeps plans from round to round.

Inside everything is counted: `index` numbers nodes and guests once (a guest's number is its place in the
order of placing, a set of nodes is the bits of an int), `state` is one arrangement that can be changed and
undone. `greedy` places guest after guest on the node that keeps the most free; that settles nearly every
plan. When it leaves somebody down and `bound` does not show that nothing better exists, `restarts` packs
anew in other orders, `repair` and `widen` move guests that are being placed anyway, and `search` rearranges
a few nodes at a time, all within `effort.STEPS`. `settle` sees to it that nobody is down for a lower
priority, `preemption` stops lower guests where users allow it, `why` says what would have to change for
those still left.

A plan never moves a guest that runs, and never breaks a hard rule. Better means: fewer guests of the highest
priority left down, then of the next, and so on.
"""
