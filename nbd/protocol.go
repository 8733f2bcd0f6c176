package nbd

import "github.com/pojntfx/go-nbd/pkg/protocol"

// Magic numbers. All integers of the protocol are big-endian.
const (
	magicServer     = protocol.NEGOTIATION_MAGIC_OLDSTYLE
	magicOption     = protocol.NEGOTIATION_MAGIC_OPTION
	magicReply      = protocol.NEGOTIATION_MAGIC_REPLY
	magicRequest    = protocol.TRANSMISSION_MAGIC_REQUEST
	magicSimple     = protocol.TRANSMISSION_MAGIC_REPLY
	magicStructured = uint32(0x668e33ef)
)

// Handshake flags; the client's have the same values.
const (
	flagFixedNewstyle = protocol.NEGOTIATION_HANDSHAKE_FLAG_FIXED_NEWSTYLE
	flagNoZeroes      = uint16(1 << 1)
)

// Options of the handshake.
const (
	optExportName      = uint32(1)
	optAbort           = protocol.NEGOTIATION_ID_OPTION_ABORT
	optList            = protocol.NEGOTIATION_ID_OPTION_LIST
	optStartTLS        = uint32(5)
	optInfo            = protocol.NEGOTIATION_ID_OPTION_INFO
	optGo              = protocol.NEGOTIATION_ID_OPTION_GO
	optStructuredReply = uint32(8)
	optListMetaContext = uint32(9)
	optSetMetaContext  = uint32(10)
	optExtendedHeaders = uint32(11)
)

// Replies to options. Errors have the top bit.
const (
	repAck         = protocol.NEGOTIATION_TYPE_REPLY_ACK
	repServer      = protocol.NEGOTIATION_TYPE_REPLY_SERVER
	repInfo        = protocol.NEGOTIATION_TYPE_REPLY_INFO
	repMetaContext = uint32(4)
	repErrUnsup    = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNSUPPORTED
	repErrPolicy   = uint32(1<<31 | 2)
	repErrInvalid  = uint32(1<<31 | 3)
	repErrUnknown  = protocol.NEGOTIATION_TYPE_REPLY_ERR_UNKNOWN
	repErrShutdown = uint32(1<<31 | 7)
	repErrTooBig   = uint32(1<<31 | 9)
)

// Kinds of information about an export.
const (
	infoExport      = protocol.NEGOTIATION_TYPE_INFO_EXPORT
	infoName        = protocol.NEGOTIATION_TYPE_INFO_NAME
	infoDescription = protocol.NEGOTIATION_TYPE_INFO_DESCRIPTION
	infoBlockSize   = protocol.NEGOTIATION_TYPE_INFO_BLOCKSIZE
)

// Transmission flags: what the export can do.
const (
	hasFlags        = protocol.NEGOTIATION_REPLY_FLAGS_HAS_FLAGS
	isReadOnly      = uint16(1 << 1)
	sendFlush       = uint16(1 << 2)
	sendFUA         = uint16(1 << 3)
	sendTrim        = uint16(1 << 5)
	sendWriteZeroes = uint16(1 << 6)
	sendDF          = uint16(1 << 7)
	canMultiConn    = protocol.NEGOTIATION_REPLY_FLAGS_CAN_MULTI_CONN
	sendCache       = uint16(1 << 10)
	sendFastZero    = uint16(1 << 11)
)

// command is the type of a request.
type command uint16

const (
	cmdRead        = command(protocol.TRANSMISSION_TYPE_REQUEST_READ)
	cmdWrite       = command(protocol.TRANSMISSION_TYPE_REQUEST_WRITE)
	cmdDisc        = command(protocol.TRANSMISSION_TYPE_REQUEST_DISC)
	cmdFlush       = command(3)
	cmdTrim        = command(4)
	cmdCache       = command(5)
	cmdWriteZeroes = command(6)
	cmdBlockStatus = command(7)
)

// Flags of a request.
const (
	cmdFlagFUA      = uint16(1 << 0)
	cmdFlagNoHole   = uint16(1 << 1)
	cmdFlagDF       = uint16(1 << 2)
	cmdFlagReqOne   = uint16(1 << 3)
	cmdFlagFastZero = uint16(1 << 4)
)

// Structured reply chunks.
const (
	chunkDone        = uint16(1 << 0)
	chunkNone        = uint16(0)
	chunkOffsetData  = uint16(1)
	chunkBlockStatus = uint16(5)
	chunkError       = uint16(1<<15 | 1)
)

// allocationContext is the one metadata context we serve, and the id we give it.
const (
	allocationContext   = "base:allocation"
	allocationContextID = uint32(1)
)

// maxString is the longest string that the specification lets pass.
const maxString = 4096

// Errors as they go over the wire. The numbers are Linux's, on every system.
const (
	wireEPERM     = protocol.TRANSMISSION_ERROR_EPERM
	wireEIO       = uint32(5)
	wireENOMEM    = uint32(12)
	wireEINVAL    = protocol.TRANSMISSION_ERROR_EINVAL
	wireENOSPC    = uint32(28)
	wireEOVERFLOW = uint32(75)
	wireENOTSUP   = uint32(95)
	wireESHUTDOWN = uint32(108)
)
