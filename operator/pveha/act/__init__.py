"""Carry decisions out. One operation a file; each is a task that never blocks a round.

`actor.Actor` starts and cancels the tasks and shows their state. `epoch`, `fence`, `takeover`,
`registration`, `rules`, `jobs`, `migrate` and `power_on` are the operations. Every side effect asks
`Context.require` first: whether enough of the lease is left for the call's own deadline. What an operation
reports at its end is a hint; the next snapshot is truth, and every step can be repeated.
"""
