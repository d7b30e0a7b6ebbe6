cdef class Payload:
    cdef Py_ssize_t size, room, filled
    cdef int views
    cdef bytes data
    cpdef add(self, bytes piece)
    cpdef place(self)
    cpdef placed(self, Py_ssize_t count)
    cdef grow(self, Py_ssize_t end)
    cpdef bytes collected(self)
    cpdef bytes complete(self)
