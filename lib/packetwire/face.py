"""The former place of `packetwire.connectionbase`."""

from packetwire.connectionbase import ABANDON_TIMEOUT as ABANDON_TIMEOUT
from packetwire.connectionbase import DEFAULT_CLOSE_TIMEOUT as DEFAULT_CLOSE_TIMEOUT
from packetwire.connectionbase import DEFAULT_HANDLERS as DEFAULT_HANDLERS
from packetwire.connectionbase import DEFAULT_MAX_UNSENT as DEFAULT_MAX_UNSENT
from packetwire.connectionbase import ERROR_DETAILS as ERROR_DETAILS
from packetwire.connectionbase import ConnectionBase as ConnectionBase
from packetwire.connectionbase import ConnectionDriver as ConnectionDriver
from packetwire.connectionbase import ConnectionFace as ConnectionFace
from packetwire.connectionbase import Setting as Setting
from packetwire.connectionbase import request_arguments as request_arguments
