cdef class Waiter:
    cdef public bint done, given_up
    cdef public object response, ended, locks, _callbacks
    cpdef set_response(self, ok, flags, payload)
    cpdef fail(self, cause)
    cpdef wake(self)

cdef class RequestWaiter(Waiter):
    cdef public object tag, _driver, _label, _channel, _decode
    cdef dict __dict__
    cdef object __weakref__

cpdef response_of(RequestWaiter waiter)
