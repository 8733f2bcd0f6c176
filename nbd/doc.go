// Package nbd serves block devices over the NBD protocol: fixed newstyle
// handshake, simple and structured replies, and every command that QEMU, the
// Linux kernel and libnbd use. It is pipelined: requests of a connection run
// concurrently and are answered in the order in which they end.
//
// It is not a storage engine and knows none: a frontend gives it an Exports,
// which turns export names into Devices. It is not a client, and it does not
// do TLS or extended headers: both are refused politely.
//
// The main types are Server, Config, Exports and Device. A connection is first
// a handshake and then a session; a session reads requests, runs them on its
// Device and hands them to its writer, which batches replies.
//
// A client can only hurt itself. Everything has a limit in Config: handshakes
// in time, number and size; requests and bytes in flight for each connection;
// bytes in flight for all of them. A connection owns a small reserve of bytes
// and shares the rest; one that sits on shared bytes without moving data while
// others wait for them is closed.
//
// A server can end in two ways: Shutdown closes what it has, HandOver gives the
// attached connections to the caller, for the Adopt of another server, so that a
// new process takes over and guests see a pause instead of I/O errors.
//
// The rules are those of the protocol's specification,
// https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md.
package nbd
