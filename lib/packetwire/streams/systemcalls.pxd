cdef class SocketCalls:
    cdef readonly object sock
    cdef int fd
    cdef object number, check
    cdef see_to(self)
    cpdef recv(self, Py_ssize_t size)
    cpdef recv_into(self, buffer)
    cpdef Py_ssize_t send(self, buffers) except -1
    cpdef detach(self)

cdef class DescriptorCalls:
    cdef int fd
    cpdef read(self, Py_ssize_t size)
    cpdef read_into(self, buffer)
    cpdef Py_ssize_t write(self, buffers) except -1
    cpdef drop(self)

cdef class ReadPoll:
    cdef int fd, wakeup
    cpdef int wait(self, milliseconds) except -1

cdef class EpollSet:
    cdef int epoll, fd
    cpdef arm(self)
    cpdef disarm(self)
    cdef modify(self, int armed)
    cpdef int wait(self, seconds) except -1
    cpdef close(self)

cpdef bint is_that_file(int fd, unsigned long long device, unsigned long long inode) noexcept
