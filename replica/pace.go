package replica

import (
	"context"

	"sheepdog"
)

// some is a part of the requests of a Write.
type some struct {
	reqs []*sheepdog.WriteRequest
	at   []int // their positions
}

func (p *some) add(r *sheepdog.WriteRequest, i int) {
	p.reqs, p.at = append(p.reqs, r), append(p.at, i)
}

// done is that of the whole for the part.
func (p *some) done(all func(i int, err error)) func(k int, err error) {
	return func(k int, err error) { all(p.at[k], err) }
}

// holdBack has the requests of families that fill the engine wait, each family in a
// goroutine that ends with its last done, and returns the others: so the caller,
// which reads for many, is held up by none.
func (s *Server) holdBack(ctx context.Context, engine sheepdog.PacedEngine, reqs []*sheepdog.WriteRequest, done func(i int, err error)) ([]*sheepdog.WriteRequest, func(i int, err error)) {
	var held map[sheepdog.FamilyID]*some
	var asked sheepdog.FamilyID // last
	for _, r := range reqs {
		if r == nil || r.Repair || r.Object.Family == asked {
			continue
		}
		asked = r.Object.Family
		if !engine.Crowded(asked) {
			continue
		}
		if held == nil {
			held = make(map[sheepdog.FamilyID]*some)
		}
		if held[asked] == nil {
			held[asked] = &some{}
		}
	}
	if held == nil {
		return reqs, done
	}
	var rest some
	for i, r := range reqs {
		if r != nil && !r.Repair && held[r.Object.Family] != nil {
			held[r.Object.Family].add(r, i)
		} else {
			rest.add(r, i)
		}
	}
	for f, p := range held {
		go func() {
			engine.AwaitRoom(ctx, f)
			s.writeRoomy(ctx, p.reqs, p.done(done))
		}()
	}
	return rest.reqs, rest.done(done)
}
