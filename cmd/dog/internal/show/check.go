package show

import (
	"fmt"

	"sheepdog/api"
)

// CheckStyle selects what CheckLine says.
type CheckStyle struct {
	DryRun  bool
	Single  bool // one VDI was asked for: no line before it
	Verbose bool // where, and how much of the object
}

// CheckLine is what `check` prints for an event; good tells whether it belongs
// to stdout (true) or is a complaint. Empty: nothing.
func CheckLine(e *api.CheckEvent, style CheckStyle) (line string, good bool) {
	verb, dryRun := "fix", style.DryRun
	if dryRun {
		verb = "check"
	}
	switch {
	case e.Begin != nil && style.Single:
		return "", true
	case e.Begin != nil && e.Begin.SnapshotID == 0:
		return fmt.Sprintf("%s vdi %s\n", verb, e.Begin.Name), true
	case e.Begin != nil:
		return fmt.Sprintf("%s snapshot %s (id: %d, tag: \"%s\")\n", verb, e.Begin.Name, e.Begin.SnapshotID, e.Begin.Tag), true
	case e.End != nil && dryRun:
		return fmt.Sprintf("finish check %s\n", e.End.Name), true
	case e.End != nil:
		return fmt.Sprintf("finish check&repair %s\n", e.End.Name), true
	case e.Finding != nil:
		return findingLine(e.Finding, style.Verbose), e.Finding.Repaired || dryRun && e.Finding.Kind != api.FindingLost
	}
	return "", true
}

func findingLine(f *api.Finding, verbose bool) string {
	what := map[api.FindingKind]string{api.FindingDifferent: "replica", api.FindingCorrupt: "replica"}[f.Kind]
	if what == "" {
		what = string(f.Kind)
	}
	line := "fixed " + what + " " + f.Object
	switch {
	case f.Repaired:
	case f.Kind == api.FindingLost:
		line = "no node has " + f.Object
	default:
		line = string(f.Kind) + " " + f.Object
	}
	if !verbose {
		return line + "\n"
	}
	if f.Node != "" {
		line += " on " + f.Node
	}
	if f.Detail != "" {
		line += ": " + f.Detail
	}
	return line + "\n"
}
