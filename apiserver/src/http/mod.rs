//! Bytes to verbs and back. Knows every verb and no kind (but `review`, the kinds that are never stored).
