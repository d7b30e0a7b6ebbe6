"""As role.py: each method is a single step, as nothing in it has others run."""

CLOSED = -2
CLOCK = -1


cdef class Role:
    def __bool__(self):
        return self.who is not None

    def __setitem__(self, key, who):
        self.who = who

    cpdef get(self, key, default=None):
        return default if self.who is None else self.who

    cpdef setdefault(self, key, me):
        if self.who is None:
            self.who = me
        return self.who

    cpdef pop(self, key, default=None):
        who, self.who = self.who, None
        return default if who is None else who

    @property
    def holder(self):
        return 0 if self.who is None else self.who

    cpdef bint give_up(self, me) except -1:
        if self.who is None or self.who != me:
            return False
        self.who = None
        return True

    cpdef close(self):
        self.who = CLOSED
