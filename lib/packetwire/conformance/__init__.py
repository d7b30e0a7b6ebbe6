"""Checks of an implementation of the packet stream, whatever it is written in, from the far end of a connection.

`table` lists the checks, which are generators in `packetchecks`, `capabilitychecks` and `clientchecks`: they yield
`steps` and get what came. `talk` has what they are made of, `ledger` the rules for all packets. `play` runs one
without a stream, `running` over one. `packetwire conformance` is the command.
"""
