// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestTouchBudget: an urgent change each second for half a minute causes few touches
// of 600 pods of one namespace, and those of another namespace are touched at once.
func TestTouchBudget(t *testing.T) {
	b := newTouchBudget()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pod := func(namespace string, i int) client.Object {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i))}}
	}
	touched, most := map[int]int{}, 0
	for range 30 {
		for i := range 600 {
			if b.take(pod("flood", i), now) == 0 {
				touched[i]++
				most = max(most, touched[i])
			}
		}
		if wait := b.take(pod("quiet", 1), now); wait > PodTouchRate.Every {
			t.Errorf("a pod of another namespace waits for %v", wait)
		}
		now = now.Add(time.Second)
	}
	all := 0
	for _, n := range touched {
		all += n
	}
	if all > 200+20*30 || all < 600 {
		t.Errorf("%d touches", all)
	}
	if most > 9 {
		t.Errorf("one pod was touched %d times in 30 s", most)
	}
}
