cdef class Role:
    cdef object who
    cpdef get(self, key, default=*)
    cpdef setdefault(self, key, me)
    cpdef pop(self, key, default=*)
    cpdef bint give_up(self, me) except -1
    cpdef close(self)
