cimport cython
from packetwire.core.packetcodec cimport PacketReader
from packetwire.core.packing cimport packed

cdef class ConnectionEngine:
    cdef public bint accepts_requests, observed, half_close
    cdef public object channels, max_packet_size, max_outstanding, max_inbound, max_inbound_octets, max_refusals
    cdef public object ours, theirs, ended, send_failure
    cdef public Py_ssize_t late_responses, unsent_octets
    cdef public object octets_wanted
    cdef public PacketReader decoder
    cdef public object _roomy
    cdef public dict _tags, _next_tags, _request_tails, _usual_tails
    cdef public object waiters, _inbound, unsent
    cdef public Py_ssize_t _inbound_octets
    cdef public bint _erq_taken, _eof_taken
    cdef public Py_ssize_t _unsent_replies, _unsent_refusals
    cdef public Py_ssize_t _batch_octets, _batch_replies, _batch_refusals
    cdef public object deadline, _expected, budget
    cdef public bint _ending, _winding_down
    cdef public dict _not_begun
    cdef public object _given_up

    @cython.locals(size=Py_ssize_t, octets=Py_ssize_t, tag=cython.longlong, data=bytes, body=bytes, head=bytes,
                   packet=bytes, tags=dict, used=dict)
    cpdef ask(self, rq_type, flags, payload, channel, waiter)
    @cython.locals(size=Py_ssize_t, octets=Py_ssize_t, data=bytes, body=bytes, head=bytes, packet=bytes,
                   tail=bytes, usual=bint)
    cpdef bint respond(self, channel, tag, bint ok, flags=*, payload=*) except -1
    cpdef list data_to_send(self)
    @cython.locals(sent=Py_ssize_t)
    cpdef data_sent(self)
    cpdef list more_data_to_send(self)
    @cython.locals(serves=bint, packet=tuple, wire_rq_type=cython.longlong, flags=cython.longlong, size=Py_ssize_t,
                   payload=bytes)
    cpdef receive_to(self, octets, requests, list events)
    cdef _send(self, bytes head, bytes payload)
    cdef _look_at_rest(self)
