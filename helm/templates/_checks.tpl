{{/* What a schema cannot say: values that do not go together. */}}
{{- define "palate.check" -}}
{{- $values := .Values -}}
{{- $engine := $values.config.engine | default dict -}}
{{- if eq $values.store.type "sqlite" -}}
  {{- if $values.workerGroups }}{{ fail "store.type sqlite is one file on one pod: set workerGroups to [] or store.type to redis" }}{{ end -}}
  {{- if $values.ray.faultTolerance.enabled }}{{ fail "ray.faultTolerance needs a Redis: set ray.faultTolerance.enabled to false or store.type to redis" }}{{ end -}}
{{- else if $values.head.persistence.enabled -}}
  {{- fail "head.persistence is for store.type sqlite; with Redis nothing on the head pod is worth keeping" -}}
{{- end -}}
{{- if and (not $values.workerGroups) (not $values.head.numCpus) -}}
  {{- fail "without workerGroups the head pod serves: give it CPUs by head.numCpus" -}}
{{- end -}}
{{- if and $values.ray.faultTolerance.enabled (eq $values.store.type "external") (not $values.ray.faultTolerance.redisAddress) (regexMatch "^rediss?[+]" $values.store.external.url) -}}
  {{- fail "Ray can use neither Sentinel nor Cluster: name a single Redis in ray.faultTolerance.redisAddress, or set ray.faultTolerance.enabled to false" -}}
{{- end -}}
{{- $gpus := 0.0 -}}
{{- range $values.workerGroups -}}
  {{- $gpus = maxf $gpus (.gpus | default 0) -}}
  {{- if or (gt (.minReplicas | int) (.replicas | int)) (gt (.replicas | int) (.maxReplicas | int)) -}}
    {{- fail (printf "workerGroups %s: minReplicas <= replicas <= maxReplicas must hold" .name) -}}
  {{- end -}}
{{- end -}}
{{- $needed := $engine.num_gpus | default 0 -}}
{{- if gt (float64 $needed) (float64 $gpus) -}}
  {{- fail (printf "config.engine.num_gpus is %v, but no worker group has pods with as many GPUs (largest: %v)" $needed $gpus) -}}
{{- end -}}
{{- if and (gt (float64 $gpus) 0.0) (not (gt (float64 $needed) 0.0)) (ne ($engine.kind | default "vllm") "scripted") -}}
  {{- fail "worker groups have GPUs, but config.engine.num_gpus is 0: the engine would run on their CPUs" -}}
{{- end -}}
{{- if eq $values.ray.upgrade.type "NewClusterWithIncrementalUpgrade" -}}
  {{- if not $values.ray.autoscaler.enabled }}{{ fail "incremental upgrades need ray.autoscaler.enabled" }}{{ end -}}
  {{- if not $values.ray.upgrade.gatewayClassName }}{{ fail "incremental upgrades need ray.upgrade.gatewayClassName" }}{{ end -}}
{{- end -}}
{{- if and $values.fit.enabled (eq $values.store.type "sqlite") -}}
  {{- fail "fit runs in a pod of its own, which cannot read the head pod's SQLite file: set fit.enabled to false or store.type to redis" -}}
{{- end -}}
{{- if and $values.fit.enabled (ne $values.artifacts.source "volume") -}}
  {{- fail "fit publishes into a volume that all pods share: set artifacts.source to volume" -}}
{{- end -}}
{{- $drain := $engine.drain_timeout_s | default 20.0 -}}
{{- if le (float64 $values.terminationGracePeriodSeconds) (float64 $drain) -}}
  {{- fail (printf "terminationGracePeriodSeconds must be more than config.engine.drain_timeout_s (%v)" $drain) -}}
{{- end -}}
{{- end -}}
