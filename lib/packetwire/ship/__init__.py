"""Far ends with nothing but Python installed: packetwire and a service are sent there over the stream itself.

    with Shop(connect_to("ssh:user@host", ship="shop:Shop")) as shop: ...

The command there is a Python of 3.11 or newer with a program of one line (`command`). It reads the sources that are
needed (`modules`, `stripping`), puts a finder for them in front of all others (`loader`), and serves (`farend`).
Nothing is written to a disk there. Code goes from the near end to the far end only, before the first packet; it
runs with the rights of the login there.

This package imports nothing, as it is at the far end, too.
"""
