package replica

import "sheepdog"

// TryRead implements sheepdog.PromptReplica. It makes every check that Read makes,
// before and after the bytes are read, and leaves to Read whatever is not plain: a
// view that this shard has not adopted, bytes that are bad, blocks on a disk.
func (s *Server) TryRead(r *sheepdog.ReadRequest) bool {
	engine, ok := s.cfg.Engine.(sheepdog.PromptEngine)
	if !ok || uint64(len(r.Buf)) != uint64(r.Count)*sheepdog.BlockSize || len(r.States) != int(r.Count) {
		return false
	}
	p := r.Object.Partition()
	v := s.view()
	if s.admitRead(v, r) != nil {
		return false
	}
	adopted := s.shards[shardOf(p)].view.Load()
	if adopted == nil || adopted.Revision < v.Revision {
		return false
	}
	s.serving(r.Object.Family)
	return engine.TryRead(r.Object, s.cfg.Layers.Chain(r.Layer), r.Start, r.Count, r.Buf, r.States) &&
		s.fenceReader(s.view(), r.Revision, r.Policy, p) == nil
}
