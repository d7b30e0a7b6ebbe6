"""As systemcalls.py, in C.

What is short is done with the GIL held, as to let go of it and take it again costs more; so one buffer is enough for
all threads, and a descriptor cannot be closed amid a call. What may copy more than a few pages lets others run.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <poll.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/types.h>
    #include <sys/uio.h>
    #include <unistd.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #define PW_READ_SIZE 65536
    #define PW_MAX_BUFFERS 64
    #define PW_WITH_GIL 16384
    static char pw_buffer[PW_READ_SIZE];

    static ssize_t pw_recv(int fd, void *to, size_t size) { return recv(fd, to, size, MSG_DONTWAIT); }

    static ssize_t pw_send(int fd, struct iovec *parts, int count) {
        if (count == 1)
            return send(fd, parts[0].iov_base, parts[0].iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        struct msghdr message = {0};
        message.msg_iov = parts;
        message.msg_iovlen = count;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }

    static ssize_t pw_read(int fd, void *to, size_t size) {
    #ifdef RWF_NOWAIT
        struct iovec part = {to, size};
        return preadv2(fd, &part, 1, -1, RWF_NOWAIT);
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }

    static ssize_t pw_write(int fd, struct iovec *parts, int count) {
    #ifdef RWF_NOWAIT
        return pwritev2(fd, parts, count, -1, RWF_NOWAIT);
    #else
        errno = ENOSYS;
        return -1;
    #endif
    }

    static int pw_is_that_file(int fd, unsigned long long device, unsigned long long inode) {
        struct stat found;
        return fstat(fd, &found) == 0 && found.st_ino == inode && found.st_dev == device;
    }

    #ifdef __linux__
    #include <sys/epoll.h>
    static int pw_modify(int epoll, int fd, int armed) {
        struct epoll_event event = {0};
        event.events = EPOLLONESHOT | (armed ? EPOLLIN : 0);
        event.data.fd = fd;
        return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    }
    static int pw_wait(int epoll, int milliseconds, int *found) {
        struct epoll_event event;
        int count = epoll_wait(epoll, &event, 1, milliseconds);
        if (count > 0)
            *found = event.data.fd;
        return count;
    }
    #else
    static int pw_modify(int epoll, int fd, int armed) { errno = ENOSYS; return -1; }
    static int pw_wait(int epoll, int milliseconds, int *found) { errno = ENOSYS; return -1; }
    #endif
    """
    struct iovec:
        void* iov_base
        size_t iov_len
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, PW_READ_SIZE, PW_WITH_GIL
    enum: PW_MAX_BUFFERS
    char* pw_buffer
    int poll(pollfd* fds, unsigned long count, int milliseconds)
    ssize_t pw_recv(int fd, void* to, size_t size)
    ssize_t pw_send(int fd, iovec* parts, int count)
    ssize_t pw_read(int fd, void* to, size_t size)
    ssize_t pw_write(int fd, iovec* parts, int count)
    bint pw_is_that_file(int fd, unsigned long long device, unsigned long long inode)
    int pw_modify(int epoll, int fd, int armed)
    int pw_wait(int epoll, int milliseconds, int* found)

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject* new_bytes "PyBytes_FromStringAndSize" (char*, Py_ssize_t) except NULL
    int resize "_PyBytes_Resize" (PyObject**, Py_ssize_t) except -1
    void Py_DECREF(PyObject*)
    char* place_of "PyBytes_AS_STRING" (PyObject*)

READABLE, WOKEN = 1, 2

ctypedef ssize_t (*Input)(int, void*, size_t) noexcept nogil
ctypedef ssize_t (*Output)(int, iovec*, int) noexcept nogil


cdef object none_or_error():
    """None if the call found nothing now; else raises what it failed for."""
    if errno != EAGAIN:
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)
        PyErr_CheckSignals()
    return None


cdef object take(Input call, int fd, Py_ssize_t size):
    cdef ssize_t count
    if size <= PW_READ_SIZE:
        count = call(fd, pw_buffer, size)
        return none_or_error() if count < 0 else PyBytes_FromStringAndSize(pw_buffer, count)
    cdef PyObject* taken = new_bytes(NULL, size)
    cdef char* to = place_of(taken)
    with nogil:
        count = call(fd, to, size)
    if count < 0:
        Py_DECREF(taken)
        return none_or_error()
    resize(&taken, count)
    result = <object>taken
    Py_DECREF(taken)
    return result


cdef object take_into(Input call, int fd, buffer):
    cdef Py_buffer view
    cdef ssize_t count
    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
    try:
        if view.len <= PW_WITH_GIL:
            count = call(fd, view.buf, view.len)
        else:
            with nogil:
                count = call(fd, view.buf, view.len)
        return none_or_error() if count < 0 else count
    finally:
        PyBuffer_Release(&view)


cdef Py_ssize_t give(Output call, int fd, buffers) except -1:
    cdef iovec parts[PW_MAX_BUFFERS]
    cdef Py_buffer views[PW_MAX_BUFFERS]
    cdef int held = 0
    cdef ssize_t count = 0
    cdef Py_ssize_t total = 0
    try:
        for buffer in buffers:
            if held == PW_MAX_BUFFERS:
                break
            PyObject_GetBuffer(buffer, &views[held], PyBUF_SIMPLE)
            parts[held].iov_base = views[held].buf
            parts[held].iov_len = views[held].len
            total += views[held].len
            held += 1
        if total <= PW_WITH_GIL:
            count = call(fd, parts, held)
        else:
            with nogil:
                count = call(fd, parts, held)
        if count < 0:
            none_or_error()
            count = 0
    finally:
        while held:
            held -= 1
            PyBuffer_Release(&views[held])
    return count


cdef class SocketCalls:
    def __init__(self, sock, number=None, check=None):
        self.sock = sock
        self.fd = sock.fileno()
        self.number = number
        self.check = check

    cdef see_to(self):
        if self.number is None or self.number() != self.fd:
            self.check()

    cpdef recv(self, Py_ssize_t size):
        if self.check is not None:
            self.see_to()
        return take(pw_recv, self.fd, size)

    cpdef recv_into(self, buffer):
        if self.check is not None:
            self.see_to()
        return take_into(pw_recv, self.fd, buffer)

    cpdef Py_ssize_t send(self, buffers) except -1:
        if self.check is not None:
            self.see_to()
        return give(pw_send, self.fd, buffers)

    cpdef detach(self):
        self.fd = -1
        self.sock.detach()


cdef class DescriptorCalls:
    def __init__(self, int fd):
        self.fd = fd

    cpdef read(self, Py_ssize_t size):
        return take(pw_read, self.fd, size)

    cpdef read_into(self, buffer):
        return take_into(pw_read, self.fd, buffer)

    cpdef Py_ssize_t write(self, buffers) except -1:
        return give(pw_write, self.fd, buffers)

    cpdef drop(self):
        pass


cdef inline int milliseconds_of(double milliseconds) noexcept:
    """Rounded up, as polls do that are called from Python."""
    return <int>min(max(milliseconds, 0.0) + 0.999, 2e9)


cdef class ReadPoll:
    def __init__(self, int fd, int wakeup):
        self.fd = fd
        self.wakeup = wakeup

    cpdef int wait(self, milliseconds) except -1:
        cdef pollfd polled[2]
        cdef int found
        cdef int limit = -1
        if milliseconds is not None:
            limit = milliseconds_of(milliseconds)
        polled[0].fd, polled[1].fd = self.fd, self.wakeup
        polled[0].events = polled[1].events = POLLIN
        polled[0].revents = polled[1].revents = 0
        with nogil:
            found = poll(polled, 2, limit)
        if found < 0:
            none_or_error()
            return 0
        if found == 0:
            # a signal that came before the poll has not interrupted it, and a compiled caller never looks for one
            PyErr_CheckSignals()
            return 0
        return (polled[0].revents != 0) | (polled[1].revents != 0) << 1


cdef class EpollSet:
    def __init__(self, epoll, int fd):
        self.epoll = epoll.fileno()
        self.fd = fd

    cpdef arm(self):
        self.modify(1)

    cpdef disarm(self):
        self.modify(0)

    cdef modify(self, int armed):
        if self.epoll < 0:
            raise ValueError("I/O operation on closed epoll object")
        if pw_modify(self.epoll, self.fd, armed) < 0:
            PyErr_SetFromErrno(OSError)

    cpdef int wait(self, seconds) except -1:
        cdef int limit = -1
        cdef int epoll = self.epoll
        cdef int found = -1
        cdef int count
        if epoll < 0:
            raise ValueError("I/O operation on closed epoll object")
        if seconds is not None:
            limit = milliseconds_of(<double>seconds * 1000)
        with nogil:
            count = pw_wait(epoll, limit, &found)
        if count < 0:
            none_or_error()
        if count <= 0:
            return 0
        return 1 if found == self.fd else 2

    cpdef close(self):
        self.epoll = -1


cpdef bint is_that_file(int fd, unsigned long long device, unsigned long long inode) noexcept:
    return pw_is_that_file(fd, device, inode)
