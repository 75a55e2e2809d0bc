// SPDX-License-Identifier: Apache-2.0

// Package delivery decides when pods have seen a change of a Secret or ConfigMap that
// they mount: when a token may be published whose key has just reached the API's pods,
// and when a pod must be touched so that it sees a change at once. The package is pure:
// the caller passes the time and what it knows of the pods.
package delivery

import "time"

const (
	// KubeletDelay is how long a kubelet takes at most to show a changed Secret or
	// ConfigMap in a pod that nobody touches: its sync period of a minute, spread by
	// half, and the time on the way.
	KubeletDelay = 2 * time.Minute

	// TouchDelay is how long it takes at most after the pod was touched. A second was
	// measured.
	TouchDelay = 5 * time.Second

	// GatewayDelay is how long a gateway takes at most to apply what was written for
	// it, to all of its proxies. 0.15 s was measured with one proxy.
	GatewayDelay = 5 * time.Second

	// ClockSkew is how far the clocks of the API server, which sets a pod's creation
	// time, and of the operator may differ. It includes the second that creation times
	// are cut to, and the moment between a pod's creation and its start.
	ClockSkew = 5 * time.Second

	// HoldMax is how long a token waits at most for the API's pods while its
	// predecessor works. Half of the predecessor's remaining life is the other bound.
	HoldMax = KubeletDelay + 30*time.Second

	// Poll is how often something that waits for pods is looked at again.
	Poll = time.Second
)

// Pod is what tells when a pod sees a change.
type Pod struct {
	Created time.Time
	// Touched is when the operator last touched the pod, zero for never. Whoever may
	// write the pod's annotations can forge it.
	Touched time.Time
	// Touchable reports whether the operator touches this pod for urgent changes.
	Touchable bool
}

// CreatedSince reports whether the pod was created after a moment, beyond doubt.
func (p Pod) CreatedSince(moment time.Time) bool {
	return p.Created.After(moment.Add(ClockSkew))
}

// touchedSince reports whether the operator touched the pod since a moment. A touch far
// in the future is not the operator's.
func (p Pod) touchedSince(moment, now time.Time) bool {
	return !p.Touched.Before(moment) && p.Touched.Before(now.Add(KubeletDelay))
}

// Told reports whether the pod was created or touched since a change. It sees the
// change within TouchDelay then.
func (p Pod) Told(changed, now time.Time) bool {
	return p.CreatedSince(changed) || p.touchedSince(changed, now)
}

// MustTouch reports whether the pod must be touched to see an object that it mounts as the
// object is since a moment. The zero time means that nothing is urgent. A moment more than
// KubeletDelay ago does not count, because the kubelet has looked since. A moment that far
// in the future does not count either, because the operator did not write it.
func (p Pod) MustTouch(since, now time.Time) bool {
	return !since.IsZero() && now.Sub(since).Abs() < KubeletDelay && !p.Told(since, now)
}

// Sees returns when the pod sees a change: the zero time if it was created since, and a
// moment to look again if it is about to be touched.
func (p Pod) Sees(changed, now time.Time) time.Time {
	byItself := changed.Add(KubeletDelay)
	switch {
	case p.CreatedSince(changed):
		return time.Time{}
	case p.touchedSince(changed, now):
		return sooner(byItself, p.Touched.Add(TouchDelay))
	case p.Touchable && now.Before(byItself):
		return now.Add(Poll)
	}
	return byItself
}

// GatewaySees returns when a gateway has applied a change to all of its proxies and they have
// drained the connections to which it does not apply, the zero time if that is over. A
// change in the future is not the operator's.
func GatewaySees(changed, now time.Time, drain time.Duration) time.Time {
	at := changed.Add(GatewayDelay + drain)
	if changed.IsZero() || !now.Before(at) || changed.After(now.Add(ClockSkew)) {
		return time.Time{}
	}
	return at
}

// Settled reports whether every pod has seen a change: it was made long ago, or never,
// or at a moment in the future that the operator did not write.
func Settled(changed, now time.Time) bool {
	return changed.IsZero() || !now.Before(changed.Add(KubeletDelay)) || changed.After(now.Add(ClockSkew))
}

// PublishBy returns when a token that waits for the API's pods is published at the
// latest, given when it was issued and when its predecessor expires: the predecessor
// must not expire meanwhile.
func PublishBy(issued, predecessorExpires time.Time) time.Time {
	return issued.Add(min(HoldMax, predecessorExpires.Sub(issued)/2).Truncate(time.Second))
}

// Sooner returns the earlier of two moments. A zero one does not count.
func Sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.IsZero() {
		return later(a, b)
	}
	return sooner(a, b)
}

func sooner(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// Moment formats a time for an annotation, to the millisecond.
func Moment(t time.Time) string {
	return t.UTC().Truncate(time.Millisecond).Format(time.RFC3339Nano)
}

// ParseMoment reads what Moment writes. Text that it cannot read counts as the zero
// time.
func ParseMoment(s string) time.Time {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}
	}
	return t
}
