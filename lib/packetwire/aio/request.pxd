cdef class CallWaiter:
    cdef public object future
    cpdef set_response(self, ok, flags, payload)
    cpdef fail(self, error)
