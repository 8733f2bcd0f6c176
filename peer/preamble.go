package peer

import (
	"errors"
	"fmt"

	"sheepdog"
)

// Kind says what a connection to the port carries.
type Kind uint8

const (
	KindHTTP   Kind = iota // everything that does not start with our preamble
	KindPeer               // frames of this package
	KindRaft               // a stream of hashicorp/raft
	KindGossip             // a stream of hashicorp/memberlist
	kinds      = 4
)

func (k Kind) String() string {
	names := [kinds]string{"http", "peer", "raft", "gossip"}
	if int(k) >= kinds {
		return fmt.Sprintf("kind %d", uint8(k))
	}
	return names[k]
}

// A connection of ours opens with a preamble, and the far end answers before
// anything else is sent:
//
//	preamble  0      4      5         6                22
//	          | \0SHP | kind | version | cluster id      |
//
//	answer    0      4      5         6                22      23
//	          | \0SHP | kind | version | cluster id      | code  |
//
// The cluster id is that of the sender, zero while it has none. No HTTP request
// and no TLS hello starts with a zero byte.
const (
	preambleSize = 22
	answerSize   = 23
	preambleMark = "\x00SHP"
)

// errVersion is returned when the far end speaks another version.
var errVersion = errors.New("protocol version differs; run the same release on all nodes")

type preamble struct {
	kind    Kind
	version uint8
	cluster sheepdog.ClusterID
}

// answerCode says what became of a preamble.
type answerCode uint8

const (
	answerWelcome answerCode = iota
	answerWrongCluster
	answerWrongVersion
	answerNotServed // nothing listens for this kind
)

func appendPreamble(b []byte, p preamble) []byte {
	b = append(b, preambleMark...)
	b = append(b, byte(p.kind), p.version)
	return append(b, p.cluster[:]...)
}

func appendAnswer(b []byte, p preamble, code answerCode) []byte {
	return append(appendPreamble(b, p), byte(code))
}

// decodePreamble reads the first preambleSize bytes of b.
func decodePreamble(b []byte) (preamble, error) {
	if len(b) < preambleSize || string(b[:len(preambleMark)]) != preambleMark {
		return preamble{}, fmt.Errorf("%w: not a sheepdog preamble", errGarbled)
	}
	p := preamble{kind: Kind(b[4]), version: b[5]}
	copy(p.cluster[:], b[6:22])
	if p.kind == KindHTTP || p.kind >= kinds {
		return preamble{}, fmt.Errorf("%w: unknown %s of connection", errGarbled, p.kind)
	}
	return p, nil
}

// decodeAnswer reads an answer to a preamble of the given kind.
func decodeAnswer(b []byte, want preamble) (preamble, error) {
	p, err := decodePreamble(b)
	if err != nil {
		return p, err
	}
	if len(b) < answerSize || p.kind != want.kind {
		return p, fmt.Errorf("%w: not an answer to a %s preamble", errGarbled, want.kind)
	}
	switch answerCode(b[22]) {
	case answerWelcome:
		return p, checkPreamble(p, want.cluster)
	case answerWrongCluster:
		return p, wrongCluster(p.cluster, want.cluster)
	case answerWrongVersion:
		return p, fmt.Errorf("%w: theirs %d, ours %d", errVersion, p.version, want.version)
	case answerNotServed:
		return p, fmt.Errorf("no %s service there yet: %w", want.kind, sheepdog.ErrClosed)
	}
	return p, fmt.Errorf("%w: answer code %d", errGarbled, b[22])
}

// checkPreamble refuses another version and another cluster than ours. A node
// without a cluster may talk to any.
func checkPreamble(p preamble, ours sheepdog.ClusterID) error {
	if p.version != sheepdog.ProtocolVersion {
		return fmt.Errorf("%w: theirs %d, ours %d", errVersion, p.version, sheepdog.ProtocolVersion)
	}
	if !p.cluster.IsZero() && !ours.IsZero() && p.cluster != ours {
		return wrongCluster(p.cluster, ours)
	}
	return nil
}

func wrongCluster(theirs, ours sheepdog.ClusterID) error {
	return fmt.Errorf("theirs is %s, ours %s: %w", theirs, ours, sheepdog.ErrWrongCluster)
}
