package cluster

import (
	"encoding/binary"
	"fmt"

	"sheepdog"
)

// entryType says who in the combined state machine an entry is for.
type entryType uint8

const (
	entryLead    entryType = 1 // the first entry of a leader; changes nothing
	entryState   entryType = 2 // a state.Command
	entryMachine entryType = 3 // a command of the Machine
)

// maxEntry bounds an encoded entry, in bytes.
const maxEntry = 768 << 10

const (
	entryVersion = 1
	entryFixed   = 2 + 8 + 8 + 8 + 8 + 1
)

// request names a proposal, so that one that is sent again is applied once.
type request struct {
	Client sheepdog.Incarnation // of the proposing process
	Seq    uint64               // from 1, one more for each proposal
	Done   uint64               // the client has the answers of all up to this one
}

// entry is one command in the Raft log, big-endian:
//
//	version=1 | type 1 | client 8 | seq 8 | done 8 | membership 8 | len 1, kind | body
//
// Membership, if not zero, is the one in which the command was let through the
// gate: in any other it is not applied.
type entry struct {
	request
	Type       entryType
	Membership membership
	Kind       string
	Body       []byte
}

// membership numbers the committed memberships over formats: the generation in
// the upper 24 bits, the epoch in the lower 40.
type membership uint64

func membershipOf(generation uint64, epoch sheepdog.Epoch) membership {
	return membership(generation<<40 | uint64(epoch)&(1<<40-1))
}

// errEntryFormat is returned for entries of a format this software does not
// know. A node that meets one in the log must not go on.
type errEntryFormat struct{ version, typ uint8 }

func (e errEntryFormat) Error() string {
	return fmt.Sprintf("log entry of format %d, type %d is not known to this version; upgrade the node", e.version, e.typ)
}

func (e *entry) encode() ([]byte, error) {
	if len(e.Kind) > 255 {
		return nil, fmt.Errorf("%w: kind of %d bytes", sheepdog.ErrInvalid, len(e.Kind))
	}
	size := entryFixed + len(e.Kind) + len(e.Body)
	if size > maxEntry {
		return nil, fmt.Errorf("%w: command of %d bytes, at most %d fit; split it", sheepdog.ErrInvalid, size, maxEntry)
	}
	b := make([]byte, 0, size)
	b = append(b, entryVersion, byte(e.Type))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Client))
	b = binary.BigEndian.AppendUint64(b, e.Seq)
	b = binary.BigEndian.AppendUint64(b, e.Done)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Membership))
	b = append(b, byte(len(e.Kind)))
	b = append(b, e.Kind...)
	return append(b, e.Body...), nil
}

// decodeEntry reads an entry; Body points into b.
func decodeEntry(b []byte) (e entry, err error) {
	if len(b) < 2 || b[0] != entryVersion {
		var version uint8
		if len(b) > 0 {
			version = b[0]
		}
		return e, errEntryFormat{version: version}
	}
	e.Type = entryType(b[1])
	if e.Type < entryLead || e.Type > entryMachine {
		return e, errEntryFormat{version: b[0], typ: b[1]}
	}
	if len(b) < entryFixed || len(b) > maxEntry || len(b)-entryFixed < int(b[entryFixed-1]) {
		return e, fmt.Errorf("%w: log entry of %d bytes is malformed", sheepdog.ErrInvalid, len(b))
	}
	e.Client = sheepdog.Incarnation(binary.BigEndian.Uint64(b[2:]))
	e.Seq = binary.BigEndian.Uint64(b[10:])
	e.Done = binary.BigEndian.Uint64(b[18:])
	e.Membership = membership(binary.BigEndian.Uint64(b[26:]))
	kind := int(b[34])
	e.Kind = string(b[entryFixed : entryFixed+kind])
	e.Body = b[entryFixed+kind:]
	return e, nil
}

// codeGateAgain is the code of a command that met another membership than the
// one in which it passed the gate. It never leaves the leader.
const codeGateAgain = 254

// outcome is what an applied command answered. It is kept for retries, and
// travels as index 8 | code 1 | result or text of the error.
type outcome struct {
	Index  uint64 // of the log entry that was applied
	Code   uint8  // as sheepdog.ErrorCode
	Result []byte // or the error's text
}

func outcomeOf(index uint64, result []byte, err error) outcome {
	if err != nil {
		return outcome{Index: index, Code: sheepdog.ErrorCode(err), Result: []byte(err.Error())}
	}
	return outcome{Index: index, Result: result}
}

func (o outcome) value() ([]byte, error) {
	if o.Code != 0 {
		return nil, sheepdog.WireError(o.Code, string(o.Result))
	}
	return o.Result, nil
}

func (o outcome) encode() []byte {
	b := make([]byte, 0, 9+len(o.Result))
	b = binary.BigEndian.AppendUint64(b, o.Index)
	b = append(b, o.Code)
	return append(b, o.Result...)
}

func decodeOutcome(b []byte) (outcome, error) {
	if len(b) < 9 {
		return outcome{}, fmt.Errorf("%w: answer of %d bytes", sheepdog.ErrInvalid, len(b))
	}
	return outcome{Index: binary.BigEndian.Uint64(b), Code: b[8], Result: b[9:]}, nil
}
