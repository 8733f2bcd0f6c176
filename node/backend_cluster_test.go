package node

import (
	"errors"
	"testing"

	"sheepdog"
	"sheepdog/api"
)

// Formatting deleted what was in the trash although it was not told to.
func TestFormatIsRefusedForTheTrash(t *testing.T) {
	n := startAlone(t)
	b := backend{n}
	_, err := b.CreateVDI(t.Context(), &api.CreateRequest{Name: "v", SizeBytes: 4 << 20})
	err = errors.Join(err, b.SetTrash(t.Context(), &api.TrashSetting{KeepSeconds: 3600}), b.DeleteVDI(t.Context(), &api.DeleteRequest{Name: "v"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Format(t.Context(), &api.FormatRequest{Copies: sheepdog.Policy{Copies: 1}}); !errors.Is(err, sheepdog.ErrBusy) {
		t.Errorf("formatted with %v", err)
	}
}
