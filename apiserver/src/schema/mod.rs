//! The schema of every built-in type, from one compact table of facts (`facts.txt`): field names, types, protobuf
//! numbers, list types, map and merge keys, defaults. One table drives strict decoding, defaulting, strategic merge,
//! pruning, protobuf, OpenAPI and explain. Pure: bytes and trees in, trees and refusals out.
