cimport cython
from packetwire.core.packetcodec cimport PacketReader
from packetwire.core.packing cimport packed

cdef class ConnectionEngine:
    cdef public bint accepts_requests, observed, half_close
    cdef public object channels, max_packet_size, max_refusals
    cdef public long long max_outstanding, max_inbound, max_inbound_octets
    cdef public object ours, theirs, ended, send_failure
    cdef public Py_ssize_t late_responses, unsent_octets, given_up, lost, dropped
    cdef public Py_ssize_t control_answers, replies_taken, refusals_taken
    cdef public object octets_wanted
    cdef public PacketReader decoder
    cdef public long long _roomy, _next_tag, _join_limit
    cdef public object _tags
    cdef public dict _tags_of, _next_tags_of, _request_tails, _usual_tails
    cdef public object waiters, _inbound, unsent, deliver
    cdef public Py_ssize_t _inbound_bytes
    cdef public bint _erq_taken, _eof_taken, _eof_waits
    cdef public Py_ssize_t _unsent_replies, _unsent_refusals
    cdef public Py_ssize_t _batch_bytes, _batch_replies, _batch_refusals
    cdef public object deadline, _expected, budget
    cdef public bint _ending, _winding_down, _ends_when_drained, _ends_when_known
    cdef public dict _not_begun
    cdef public object _given_up
    cdef public object control, barred, drained
    cdef public double now
    cdef public dict contexts
    cdef public bint _needs_mark, _negotiates
    cdef public object _peer_takes
    cdef public object lane, pieces, bodies
    cdef public dict _unfinished, _collected

    @cython.locals(size=Py_ssize_t, length=Py_ssize_t, data=bytes, packet=bytes, tail=bytes,
                   number=cython.longlong, waiters=dict, stays_behind=bint)
    cpdef ask(self, rq_type, flags, payload, channel, waiter)
    @cython.locals(size=Py_ssize_t, length=Py_ssize_t, data=bytes, body=bytes, head=bytes, packet=bytes,
                   tail=bytes, usual=bint, inbound=dict, done_with=Py_ssize_t)
    cpdef bint respond(self, channel, tag, bint ok, flags=*, payload=*) except -1
    cpdef list data_to_send(self)
    @cython.locals(sent=Py_ssize_t)
    cpdef data_sent(self)
    cpdef list more_data_to_send(self)
    @cython.locals(serves=bint, packet=tuple, wire_rq_type=cython.longlong, flags=cython.longlong, size=Py_ssize_t,
                   payload=bytes, waiters=dict, inbound=dict, unfinished=dict, collected=dict)
    cpdef receive_to(self, data, requests, list events, Py_ssize_t placed=*)
    cdef _send(self, bytes head, bytes payload)
    cdef _look_at_rest(self)
