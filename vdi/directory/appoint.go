package directory

// ParseAcquire reads a command that is about to be proposed, for the leader's
// gate; ok is false if it is no Acquire. It refuses what Apply would refuse.
func ParseAcquire(kind string, body []byte) (cmd Acquire, ok bool, err error) {
	if kind != kindAcquire {
		return cmd, false, nil
	}
	parsed, err := parse(kind, body)
	if err != nil {
		return cmd, true, err
	}
	return *parsed.(*Acquire), true, nil
}

// ParsePrune likewise reads a Prune.
func ParsePrune(kind string, body []byte) (cmd Prune, ok bool, err error) {
	if kind != kindPrune {
		return cmd, false, nil
	}
	parsed, err := parse(kind, body)
	if err != nil {
		return cmd, true, err
	}
	return *parsed.(*Prune), true, nil
}

// ParseRetire likewise reads a Retire.
func ParseRetire(kind string, body []byte) (cmd Retire, ok bool, err error) {
	if kind != kindRetire {
		return cmd, false, nil
	}
	parsed, err := parse(kind, body)
	if err != nil {
		return cmd, true, err
	}
	return *parsed.(*Retire), true, nil
}
