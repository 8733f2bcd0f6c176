package nbd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

// answer handles one option. It returns an agreement when the handshake is over
// and an error when the connection is.
func (h *handshake) answer(ctx context.Context, o option) (*agreement, error) {
	switch o.id {
	case optExportName:
		return h.exportName(ctx, o)
	case optInfo, optGo:
		return h.export(ctx, o)
	case optAbort:
		err := h.reply(o.id, repAck, nil)
		return nil, errors.Join(err, h.w.Flush(), errAborted)
	case optList:
		return nil, h.list(ctx, o)
	case optStructuredReply:
		return nil, h.structuredReply(o)
	case optListMetaContext, optSetMetaContext:
		return nil, h.metaContext(ctx, o)
	case optStartTLS:
		return nil, h.refuse(o.id, repErrUnsup, "TLS is not available")
	case optExtendedHeaders:
		return nil, h.refuse(o.id, repErrUnsup, "extended headers are not available")
	}
	return nil, h.refuse(o.id, repErrUnsup, fmt.Sprintf("option %d is not known", o.id))
}

// exportName attaches in the old way: there are no error replies, only a closed
// connection.
//
//	| 64 size | 16 transmission flags | 124 zeros unless NO_ZEROES |
func (h *handshake) exportName(ctx context.Context, o option) (*agreement, error) {
	name := string(o.payload)
	if err := orName(nil, name); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	dev, err := h.open(ctx, name)
	if err != nil {
		return nil, err
	}
	if !h.admit() {
		return nil, errTooMany
	}
	b := make([]byte, 10+124)
	binary.BigEndian.PutUint64(b, dev.Size())
	binary.BigEndian.PutUint16(b[8:], h.transmissionFlags(dev))
	if h.noZeroes {
		b = b[:10]
	}
	if _, err := h.w.Write(b); err != nil {
		return nil, err
	}
	return h.agree(name, dev), nil
}

// export answers INFO and GO.
func (h *handshake) export(ctx context.Context, o option) (*agreement, error) {
	q, err := parseExportQuery(o.payload)
	if err != nil {
		return nil, h.refuse(o.id, repErrInvalid, err.Error())
	}
	dev, err := h.open(ctx, q.name)
	if err != nil {
		return nil, h.refuse(o.id, optionError(err), err.Error())
	}
	if o.id == optGo && !h.admit() {
		return nil, h.refuse(o.id, repErrPolicy, errTooMany.Error())
	}
	if err := h.describe(o.id, q, dev); err != nil {
		return nil, err
	}
	if err := h.reply(o.id, repAck, nil); err != nil || o.id == optInfo {
		return nil, err
	}
	return h.agree(q.name, dev), nil
}

// agree sums up the handshake.
func (h *handshake) agree(name string, dev Device) *agreement {
	return &agreement{
		name: name, dev: dev, structured: h.structured,
		allocation: h.allocation && h.selected == name,
	}
}

// describe sends what is to be known of an export. The size and the block sizes
// go out unasked: clients exist that need them and do not ask.
//
//	| 16 EXPORT      | 64 size | 16 transmission flags |
//	| 16 BLOCK_SIZE  | 32 minimum | 32 preferred | 32 maximum |
//	| 16 NAME        | name |
//	| 16 DESCRIPTION | text |
func (h *handshake) describe(opt uint32, q exportQuery, dev Device) error {
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, dev.Size())
	b = binary.BigEndian.AppendUint16(b, h.transmissionFlags(dev))
	h.reply(opt, repInfo, b)

	b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint32(b, preferredBlock(dev.PreferredBlock(), h.cfg.MaxRequestBytes))
	b = binary.BigEndian.AppendUint32(b, uint32(h.cfg.MaxRequestBytes))
	err := h.reply(opt, repInfo, b)

	for _, kind := range []uint16{infoName, infoDescription} {
		if text := infoText(kind, q.name, dev); text != "" && slices.Contains(q.kinds, kind) {
			err = h.reply(opt, repInfo, append(binary.BigEndian.AppendUint16(nil, kind), text...))
		}
	}
	return err // of the last reply: h.w remembers its first error
}

// infoText is the text of a kind of information that has one.
func infoText(kind uint16, name string, dev Device) string {
	if kind == infoName {
		return name
	}
	if d, ok := dev.(Described); ok {
		return clip(d.Description())
	}
	return ""
}

// preferredBlock makes of a device's wish what the protocol allows: a power of
// two, from 512 to the largest request.
func preferredBlock(wish uint32, largest int) uint32 {
	if wish <= 512 {
		return 512
	}
	return min(uint32(1)<<(bits.Len32(wish)-1), uint32(largest))
}

// transmissionFlags say what a device can do.
func (h *handshake) transmissionFlags(dev Device) uint16 {
	flags := hasFlags | sendFlush | sendFUA | sendCache | canMultiConn
	if h.structured {
		flags |= sendDF
	}
	if dev.ReadOnly() {
		return flags | isReadOnly
	}
	return flags | sendTrim | sendWriteZeroes | sendFastZero
}

// list answers LIST with one reply per export and an end.
func (h *handshake) list(ctx context.Context, o option) error {
	if len(o.payload) > 0 {
		return h.refuse(o.id, repErrInvalid, "LIST takes no payload")
	}
	var names []string
	err := h.bounded(ctx, func(ctx context.Context) (err error) {
		names, err = h.cfg.Exports.List(ctx)
		return err
	})
	if err != nil {
		return h.refuse(o.id, optionError(err), "list exports: "+err.Error())
	}
	for _, name := range names {
		if len(name) > maxString {
			continue // no client could ask for it
		}
		b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
		if err := h.reply(o.id, repServer, append(b, name...)); err != nil {
			return err
		}
	}
	return h.reply(o.id, repAck, nil)
}

// structuredReply answers STRUCTURED_REPLY.
func (h *handshake) structuredReply(o option) error {
	if len(o.payload) > 0 {
		return h.refuse(o.id, repErrInvalid, "STRUCTURED_REPLY takes no payload")
	}
	h.structured = true
	return h.reply(o.id, repAck, nil)
}

// metaContext answers LIST_META_CONTEXT and SET_META_CONTEXT. A selection
// replaces the one before it, also when it fails.
//
//	| 32 context id | name |
func (h *handshake) metaContext(ctx context.Context, o option) error {
	listing := o.id == optListMetaContext
	if !listing {
		h.selected, h.allocation = "", false
	}
	if !h.structured {
		return h.refuse(o.id, repErrInvalid, "metadata contexts need structured replies first")
	}
	q, err := parseMetaQuery(o.payload)
	if err != nil {
		return h.refuse(o.id, repErrInvalid, err.Error())
	}
	if _, err := h.open(ctx, q.name); err != nil {
		return h.refuse(o.id, optionError(err), err.Error())
	}
	if !q.wantsAllocation(listing) {
		return h.reply(o.id, repAck, nil)
	}
	id := uint32(0) // reserved when listing
	if !listing {
		h.selected, h.allocation, id = q.name, true, allocationContextID
	}
	h.reply(o.id, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), allocationContext...))
	return h.reply(o.id, repAck, nil)
}
