// Package rpc is libvirt's remote procedure call protocol: XDR values (RFC 4506),
// message frames, procedure numbers and errors as they stand on the wire. It
// knows no pool and no domain, and it has no sockets of its own.
//
// Main types: Message, Encoder, Decoder, Error.
package rpc

// Limits of the protocol.
const (
	MaxMessage = 32<<20 + 4 // bytes of a frame with its length word
	MaxString  = 4 << 20    // bytes
	MaxList    = 16384      // elements
	MaxParams  = 64         // typed parameters in one list
	MaxCookie  = 4 << 20    // bytes of an opaque value
	// MaxStreamData is the most bytes of data in one stream message.
	MaxStreamData = 262120
)

// Programs.
const (
	ProgramRemote    uint32 = 0x20008086
	ProgramQEMU      uint32 = 0x20008087
	ProgramLXC       uint32 = 0x20008088
	ProgramKeepalive uint32 = 0x6b656570
)

// Version of both programs.
const Version uint32 = 1

// Procedures of the keepalive program.
const (
	KeepalivePing uint32 = 1
	KeepalivePong uint32 = 2
)

// Type says what a message is.
type Type uint32

// The types of messages.
const (
	Call       Type = 0
	Reply      Type = 1
	Event      Type = 2 // a message that nobody called for
	Stream     Type = 3
	CallFDs    Type = 4 // with file descriptors; never used here
	ReplyFDs   Type = 5
	StreamHole Type = 6
)

// Status says how a call went or what a stream message is for.
type Status uint32

// The states of messages.
const (
	OK       Status = 0 // calls and replies; in streams: the end
	Failed   Status = 1 // the payload is an Error; in streams: abort
	Continue Status = 2 // streams only: data follow
)
