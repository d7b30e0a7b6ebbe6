"""`Bridge`: bytes from one address to another and back, unchanged, whatever they mean."""

from packetwire._sync.bridge import Bridge
from packetwire.bridging import DEFAULT_MAX_CLIENTS as DEFAULT_MAX_CLIENTS
from packetwire.bridging import listens_at as listens_at
from packetwire.bridging import open_end as open_end

__all__ = ["Bridge"]
