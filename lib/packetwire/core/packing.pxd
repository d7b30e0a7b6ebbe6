cpdef bytes packed(tag, bytes tail, bytes payload)
