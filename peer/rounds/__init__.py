"""The rounds of a run as pure state machines: what the log says (`log`), the leader (`lead`), a member (`follow`).

Each machine is fed `receive(message, now)` and `tick(now)`, returns the effects to carry out, and changes nothing when
it raises. The daemon and the simulator run the same code.

Pure: no IO, no clock, no randomness.
"""
