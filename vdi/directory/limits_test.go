package directory

import (
	"fmt"
	"strings"
	"testing"

	"sheepdog"
)

func TestLimits(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, tt := range []struct {
		what string
		err  error
		ok   bool
	}{
		{"name of 255 bytes", CheckName(long), true},
		{"name of 256 bytes", CheckName(long + "n"), false},
		{"empty name", CheckName(""), false},
		{"name with an umlaut", CheckName("schäfchen"), true},
		{"name with a space", CheckName("a b"), true},
		{"name that is no UTF-8", CheckName("a\xff"), false},
		{"name with a newline", CheckName("a\nb"), false},
		{"name with C1 control", CheckName("a\u0085b"), false},
		{"two slashes", CheckName("a//b"), false},
		{"no tag", CheckTag(""), true},
		{"tag of 255 bytes", CheckTag(long), true},
		{"tag of 256 bytes", CheckTag(long + "n"), false},
		{"tag of digits", CheckTag("0123"), false},
		{"tag with digits", CheckTag("v12"), true},
		{"tag with NUL", CheckTag("a\x00"), false},
		{"tag that is no UTF-8", CheckTag("\xff"), false},
		{"1 byte", CheckSize(1, 22), true},
		{"16 PiB", CheckSize(16<<50, 22), true},
		{"16 PiB and 1", CheckSize(16<<50+1, 31), false},
		{"2^32 objects of 1 MiB", CheckSize(4<<50, 20), true},
		{"one more", CheckSize(4<<50+1, 20), false},
		{"31 copies", CheckPolicy(sheepdog.Policy{Copies: 31}), true},
		{"32 copies", CheckPolicy(sheepdog.Policy{Copies: 32}), false},
		{"0 copies", CheckPolicy(sheepdog.Policy{}), false},
		{"16:15", CheckPolicy(sheepdog.Policy{Copies: 16, Parity: 15}), true},
		{"16:16", CheckPolicy(sheepdog.Policy{Copies: 16, Parity: 16}), false},
		{"6:2", CheckPolicy(sheepdog.Policy{Copies: 6, Parity: 2}), false},
		{"shift 19", CheckGeometry(19), false},
		{"shift 20", CheckGeometry(20), true},
		{"shift 31", CheckGeometry(31), true},
		{"shift 32", CheckGeometry(32), false},
		{"id 1", checkRef("1"), true},
		{"id 0", checkRef("0"), false},
		{"id 2^32", checkRef("4294967296"), false},
		{"no ref", checkRef(""), false},
		{"long description", checkDescription(strings.Repeat("d", MaxDescriptionLength+1)), false},
	} {
		if (tt.err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.what, tt.err)
		}
		if tt.err != nil && sheepdog.ErrorCode(tt.err) != sheepdog.ErrorCode(sheepdog.ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", tt.what, tt.err)
		}
	}
}

func TestMissingSurvivesTheWire(t *testing.T) {
	w := newWorld(t)
	if err := w.newVDI("v"); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cmd  Command
		want error
	}{
		{&Delete{Name: "no such snapshot: "}, ErrNoVDI},
		{&DeleteSnapshot{Name: "v", Snapshot: "no such VDI: "}, ErrNoSnapshot},
		{&SetAttr{Name: "v", Key: "k", Delete: true}, ErrNoAttr},
		{&Resize{Name: "v", Size: 1}, nil},
	} {
		_, err := w.run(tt.cmd)
		far := fmt.Errorf("node 7: %w", sheepdog.WireError(sheepdog.ErrorCode(err), err.Error()))
		if Missing(err) != tt.want || Missing(far) != tt.want {
			t.Errorf("%T: %v misses %v here and %v over the wire, want %v", tt.cmd, err, Missing(err), Missing(far), tt.want)
		}
	}
	if Missing(nil) != nil || Missing(sheepdog.ErrNotFound) != nil {
		t.Error("a plain ErrNotFound misses something")
	}
}

func TestAttributesAreBounded(t *testing.T) {
	w := newWorld(t)
	w.bare = true
	if err := w.newVDI("v"); err != nil {
		t.Fatal(err)
	}
	for i := range MaxAttrs {
		w.must(&SetAttr{Name: "v", Key: fmt.Sprint(i), Value: []byte("x")})
	}
	w.wantError(&SetAttr{Name: "v", Key: "one more"}, sheepdog.ErrInvalid)
	w.must(&SetAttr{Name: "v", Key: "7", Value: []byte("another")})
	w.must(&SetAttr{Name: "v", Key: "7", Delete: true})
	w.must(&SetAttr{Name: "v", Key: "one more"})
	keys, err := w.d.Attrs("v", "")
	if err != nil || len(keys) != MaxAttrs || keys[len(keys)-1] != "one more" {
		t.Fatalf("%d keys, %v", len(keys), err)
	}

	big := make([]byte, MaxAttrValueLength)
	for i := range MaxAttrBytes / len(big) {
		if _, err := w.run(&SetAttr{Name: "v", Key: fmt.Sprint(8 + i), Value: big}); err != nil {
			if i < MaxAttrBytes/len(big)-2 {
				t.Fatalf("value %d: %v", i, err)
			}
			return
		}
	}
	t.Fatal("attributes have no bound together")
}
