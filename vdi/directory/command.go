package directory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Command is one change of the directory. Time in a command is the proposer's
// clock; a directory believes it.
type Command interface {
	// validate checks what needs no directory.
	validate() error
	// apply changes the state, or returns an error and changes nothing. The
	// result is nil or a pointer to a struct.
	apply(s *state) (any, error)
}

// Kinds of commands as they stand in the log; never used again for another.
const (
	kindCreate         = "vdi-create"
	kindSnapshot       = "vdi-snapshot"
	kindClone          = "vdi-clone"
	kindDelete         = "vdi-delete"
	kindDeleteSnapshot = "vdi-delete-snapshot"
	kindRollback       = "vdi-rollback"
	kindResize         = "vdi-resize"
	kindRename         = "vdi-rename"
	kindSetAttr        = "vdi-setattr"
	kindAcquire        = "vdi-acquire"
	kindRelease        = "vdi-release"
	kindClaim          = "vdi-claim"
	kindMarkWritten    = "vdi-mark-written"
	kindPrune          = "vdi-prune"
	kindReset          = "vdi-reset"
	kindRecode         = "vdi-recode"
	kindRecoded        = "vdi-recoded"
	kindGiveUp         = "vdi-recode-give-up"
	kindRetire         = "vdi-retire"
	kindCode           = "vdi-code"
	kindLose           = "vdi-lose"
	kindSnapshotGroup  = "vdi-snapshot-group"
	kindAlterPolicy    = "vdi-alter-policy"
	kindFlatten        = "vdi-flatten"
	kindSetTrash       = "vdi-set-trash"
	kindUntrash        = "vdi-untrash"
	kindPurge          = "vdi-purge"
	kindExpire         = "vdi-expire"
)

func kindOf(cmd Command) string {
	switch cmd.(type) {
	case *Create:
		return kindCreate
	case *Snapshot:
		return kindSnapshot
	case *Clone:
		return kindClone
	case *Delete:
		return kindDelete
	case *DeleteSnapshot:
		return kindDeleteSnapshot
	case *Rollback:
		return kindRollback
	case *Resize:
		return kindResize
	case *Rename:
		return kindRename
	case *SetAttr:
		return kindSetAttr
	case *Acquire:
		return kindAcquire
	case *Release:
		return kindRelease
	case *Claim:
		return kindClaim
	case *MarkWritten:
		return kindMarkWritten
	case *Prune:
		return kindPrune
	case *Reset:
		return kindReset
	case *SnapshotGroup:
		return kindSnapshotGroup
	case *AlterPolicy:
		return kindAlterPolicy
	case *Flatten:
		return kindFlatten
	case *SetTrash:
		return kindSetTrash
	case *Untrash:
		return kindUntrash
	case *Purge:
		return kindPurge
	case *Expire:
		return kindExpire
	}
	return codingKindOf(cmd)
}

func newCommand(kind string) Command {
	switch kind {
	case kindCreate:
		return &Create{}
	case kindSnapshot:
		return &Snapshot{}
	case kindClone:
		return &Clone{}
	case kindDelete:
		return &Delete{}
	case kindDeleteSnapshot:
		return &DeleteSnapshot{}
	case kindRollback:
		return &Rollback{}
	case kindResize:
		return &Resize{}
	case kindRename:
		return &Rename{}
	case kindSetAttr:
		return &SetAttr{}
	case kindAcquire:
		return &Acquire{}
	case kindRelease:
		return &Release{}
	case kindClaim:
		return &Claim{}
	case kindMarkWritten:
		return &MarkWritten{}
	case kindPrune:
		return &Prune{}
	case kindReset:
		return &Reset{}
	case kindSnapshotGroup:
		return &SnapshotGroup{}
	case kindAlterPolicy:
		return &AlterPolicy{}
	case kindFlatten:
		return &Flatten{}
	case kindSetTrash:
		return &SetTrash{}
	case kindUntrash:
		return &Untrash{}
	case kindPurge:
		return &Purge{}
	case kindExpire:
		return &Expire{}
	}
	return newCodingCommand(kind)
}

func codingKindOf(cmd Command) string {
	switch cmd.(type) {
	case *Recode:
		return kindRecode
	case *Recoded:
		return kindRecoded
	case *GiveUp:
		return kindGiveUp
	case *Retire:
		return kindRetire
	case *Code:
		return kindCode
	case *Lose:
		return kindLose
	}
	return ""
}

func newCodingCommand(kind string) Command {
	switch kind {
	case kindRecode:
		return &Recode{}
	case kindRecoded:
		return &Recoded{}
	case kindGiveUp:
		return &GiveUp{}
	case kindRetire:
		return &Retire{}
	case kindCode:
		return &Code{}
	case kindLose:
		return &Lose{}
	}
	return nil
}

// Encode makes a command ready to be proposed. It refuses what every directory
// would refuse, so that nonsense costs no commit.
func Encode(cmd Command) (kind string, body []byte, err error) {
	kind = kindOf(cmd)
	if err := cmd.validate(); err != nil {
		return "", nil, fmt.Errorf("%s: %w", kind, err)
	}
	body, err = json.Marshal(cmd)
	if err != nil {
		return "", nil, invalid("%s: %v", kind, err)
	}
	if len(body) > MaxCommandLength {
		return "", nil, invalid("%s: command has %d bytes, at most %d are allowed", kind, len(body), MaxCommandLength)
	}
	return kind, body, nil
}

// parse reads an encoded command. It is as strict as it can be: all nodes must
// understand the same.
func parse(kind string, body []byte) (Command, error) {
	cmd := newCommand(kind)
	if cmd == nil {
		return nil, invalid("unknown command %q; is this node older than the others?", kind)
	}
	if len(body) > MaxCommandLength {
		return nil, invalid("%s: command has %d bytes, at most %d are allowed", kind, len(body), MaxCommandLength)
	}
	if err := strictJSON(body, cmd); err != nil {
		return nil, invalid("%s: %v", kind, err)
	}
	if err := cmd.validate(); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return cmd, nil
}

// strictJSON refuses unknown fields and anything after the value.
func strictJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("more than one JSON value")
	}
	return nil
}

func encodeResult(result any) ([]byte, error) {
	if result == nil {
		return nil, nil
	}
	return json.Marshal(result)
}

// Decode reads the result of a command: Created of Create and Clone, Snapped of
// Snapshot, SnappedGroup of SnapshotGroup, Deleted of Delete, DeleteSnapshot and
// Purge, RolledBack of Rollback, Acquired of Acquire, Altered of AlterPolicy,
// Recoding of Recode. The other commands have none.
func Decode[R Created | Snapped | SnappedGroup | Deleted | RolledBack | Acquired | Altered | Recoding](result []byte) (R, error) {
	var r R
	if err := json.Unmarshal(result, &r); err != nil {
		return r, invalid("result of a VDI command: %v", err)
	}
	return r, nil
}
