{{/* Names, labels and the parts that every pod with Palate's image shares. */}}

{{- define "palate.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What selects pods. KubeRay sets app.kubernetes.io/name itself, so it is not among them. */}}
{{- define "palate.selector" -}}
app.kubernetes.io/part-of: palate
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "palate.labels" -}}
{{ include "palate.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "palate.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default .Chart.AppVersion $image.tag }}
{{- end -}}
{{- end -}}

{{- define "palate.serviceAccount" -}}
{{- .root.Values.serviceAccount.name | default (ternary (printf "%s-%s" (include "palate.fullname" .root) .role) "default" .root.Values.serviceAccount.create) -}}
{{- end -}}

{{/* Of containers: nothing may be gained, and nothing but the mounted folders written. */}}
{{- define "palate.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Of containers whose image is not Palate's, with their own user. */}}
{{- define "palate.podSettings" -}}
securityContext: {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "palate.isRedis" -}}
{{- if ne .Values.store.type "sqlite" }}true{{ end -}}
{{- end -}}

{{- define "palate.redisCaSecret" -}}
{{- if eq .Values.store.type "redis" }}{{ .Values.redis.tls.existingSecret }}{{ else if eq .Values.store.type "external" }}{{ .Values.store.external.caSecret }}{{ end -}}
{{- end -}}

{{/* host:port of the chart's own Redis. */}}
{{- define "palate.redisHost" -}}
{{ include "palate.fullname" . }}-redis:6379
{{- end -}}

{{/* The store's address, without credentials. */}}
{{- define "palate.storeUrl" -}}
{{- $external := .Values.store.external -}}
{{- if eq .Values.store.type "redis" -}}
{{- if .Values.redis.tls.existingSecret -}}
rediss://{{ include "palate.redisHost" . }}/0?ssl_ca_certs=/etc/palate/redis-tls/ca.crt
{{- else -}}
redis://{{ include "palate.redisHost" . }}/0
{{- end -}}
{{- else if eq .Values.store.type "external" -}}
{{- $external.url -}}
{{- if $external.caSecret }}{{ ternary "&" "?" (contains "?" $external.url) }}ssl_ca_certs=/etc/palate/redis-tls/ca.crt{{ end -}}
{{- end -}}
{{- end -}}

{{/* Where Ray keeps its own state: scheme, host and port; Ray takes a database's path for part of the port. */}}
{{- define "palate.rayRedisAddress" -}}
{{- $explicit := .Values.ray.faultTolerance.redisAddress -}}
{{- if $explicit -}}
{{- $explicit -}}
{{- else if eq .Values.store.type "redis" -}}
{{- ternary "rediss://" "redis://" (ne .Values.redis.tls.existingSecret "") }}{{ include "palate.redisHost" . }}
{{- else -}}
{{- $address := regexFind "^rediss?://[^/?]+" .Values.store.external.url -}}
{{- $address }}{{ if not (regexMatch ":[0-9]+$" $address) }}:6379{{ end -}}
{{- end -}}
{{- end -}}

{{/* A secretKeyRef for the store's password; nothing without one. */}}
{{- define "palate.storePassword" -}}
{{- if and (eq .Values.store.type "redis") (not .Values.redis.auth.disabled) -}}
secretKeyRef: {name: {{ .Values.redis.auth.existingSecret }}, key: {{ .Values.redis.auth.key }}}
{{- else if and (eq .Values.store.type "external") .Values.store.external.existingSecret -}}
secretKeyRef: {name: {{ .Values.store.external.existingSecret }}, key: {{ .Values.store.external.passwordKey }}}
{{- end -}}
{{- end -}}

{{- define "palate.env" -}}
- {name: PALATE_HOME, value: /var/lib/palate}
- {name: HOME, value: /var/lib/palate}
- {name: PROMETHEUS_MULTIPROC_DIR, value: /var/run/palate}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_SERVE_ENABLE_HA_PROXY, value: {{ ternary "1" "0" .Values.ray.haproxy | quote }}}
- {name: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD, value: "0"}
- {name: RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP, value: "0"}
- {name: RAY_SERVE_USE_GRPC_BY_DEFAULT, value: "1"}
{{- with include "palate.storeUrl" . }}
- {name: PALATE_STORE_URL, value: {{ . | quote }}}
{{- end }}
{{- if and (eq .Values.store.type "external") .Values.store.external.existingSecret .Values.store.external.usernameKey }}
- name: PALATE_STORE_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ .Values.store.external.existingSecret }}, key: {{ .Values.store.external.usernameKey }}}
{{- end }}
{{- with include "palate.storePassword" . }}
- name: PALATE_STORE_PASSWORD
  valueFrom:
    {{- . | nindent 4 }}
{{- end }}
{{- if include "palate.redisCaSecret" . }}
- {name: RAY_REDIS_CA_CERT, value: /etc/palate/redis-tls/ca.crt}
{{- end }}
{{- with .Values.apiKey.existingSecret }}
- name: PALATE_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.apiKey.key }}}
{{- end }}
{{- with .Values.gateway.existingSecret }}
- name: PALATE_GATEWAY_SECRET
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.gateway.key }}}
{{- end }}
{{- with .Values.model.hubToken.existingSecret }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: {{ $.Values.model.hubToken.key }}}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "palate.volumeMounts" -}}
- {name: home, mountPath: /var/lib/palate}
- {name: tmp, mountPath: /tmp}
- {name: metrics, mountPath: /var/run/palate}
{{- if ne .Values.artifacts.source "shipped" }}
- {name: artifacts, mountPath: /var/lib/palate/artifacts}
{{- end }}
{{- if .Values.model.existingClaim }}
- {name: models, mountPath: {{ .Values.model.mountPath }}, readOnly: true}
{{- end }}
{{- if .Values.keys.existingSecret }}
- {name: keys, mountPath: /etc/palate/keys, readOnly: true}
{{- end }}
{{- if include "palate.redisCaSecret" . }}
- {name: redis-tls, mountPath: /etc/palate/redis-tls, readOnly: true}
{{- end }}
{{- end -}}

{{/* Takes root and isHead. */}}
{{- define "palate.volumes" -}}
{{- $root := .root -}}
{{- with .root.Values -}}
- name: home
  {{- if and $.isHead .head.persistence.enabled }}
  persistentVolumeClaim: {claimName: {{ include "palate.fullname" $root }}-home}
  {{- else }}
  emptyDir: {sizeLimit: {{ .homeSize }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: {{ .tmpSize }}}
- name: metrics
  emptyDir: {sizeLimit: 1Gi}
{{- if eq .artifacts.source "volume" }}
- name: artifacts
  persistentVolumeClaim: {claimName: {{ .artifacts.volume.existingClaim | default (printf "%s-artifacts" (include "palate.fullname" $root)) }}}
{{- else if eq .artifacts.source "objectStore" }}
- name: artifacts
  emptyDir: {sizeLimit: {{ .artifacts.volume.size }}}
{{- end }}
{{- with .model.existingClaim }}
- name: models
  persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
{{- end }}
{{- with .keys.existingSecret }}
- name: keys
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- with include "palate.redisCaSecret" $root }}
- name: redis-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items: [{key: {{ ternary "ca.crt" $root.Values.store.external.caKey (eq $root.Values.store.type "redis") }}, path: ca.crt}]
{{- end }}
{{- end -}}
{{- end -}}

{{/* What must be in place before Ray starts. */}}
{{- define "palate.initContainers" -}}
{{- if eq .Values.artifacts.source "objectStore" }}
- name: artifacts
  image: {{ .Values.artifacts.objectStore.image }}
  args: [sync, {{ .Values.artifacts.objectStore.url | quote }}, /artifacts]
  env:
    - {name: HOME, value: /tmp}
  {{- with .Values.artifacts.objectStore.existingSecret }}
  envFrom:
    - secretRef: {name: {{ . }}}
  {{- end }}
  securityContext: {{- include "palate.securityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 100m, memory: 128Mi}
    limits: {memory: 512Mi}
  volumeMounts:
    - {name: artifacts, mountPath: /artifacts}
    - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if .Values.keys.existingSecret }}
- name: keys
  image: {{ include "palate.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  # A link, so that a changed secret is seen without a restart.
  command: [ln, -sfn, /etc/palate/keys/keys.json, /var/lib/palate/keys.json]
  securityContext: {{- include "palate.securityContext" . | nindent 4 }}
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
  volumeMounts:
    - {name: home, mountPath: /var/lib/palate}
{{- end }}
{{- end -}}

{{/* The exporter beside Ray: sums the metrics of all processes of its pod. */}}
{{- define "palate.exporter" -}}
- name: metrics
  image: {{ include "palate.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [palate, metrics, serve, --host, 0.0.0.0, --port, {{ .Values.metrics.port | quote }}]
  env:
    - {name: PROMETHEUS_MULTIPROC_DIR, value: /var/run/palate}
  ports:
    - {name: palate-metrics, containerPort: {{ .Values.metrics.port }}}
  readinessProbe:
    httpGet: {path: /health, port: palate-metrics}
    periodSeconds: 30
    timeoutSeconds: 5
  livenessProbe:
    httpGet: {path: /health, port: palate-metrics}
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 6
  securityContext: {{- include "palate.securityContext" . | nindent 4 }}
  resources: {{- toYaml .Values.metrics.resources | nindent 4 }}
  volumeMounts:
    - {name: metrics, mountPath: /var/run/palate}
    - {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* Ray answers on its agent's port; a model loads later, under Ray Serve's own health checks. */}}
{{- define "palate.probes" -}}
{{- $probes := .Values.probes -}}
startupProbe:
  httpGet: {path: /api/local_raylet_healthz, port: agent}
  periodSeconds: 5
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: {{ max 1 (ceil (divf $probes.startupSeconds 5) | int) }}
livenessProbe:
  httpGet: {path: /api/local_raylet_healthz, port: agent}
  periodSeconds: {{ $probes.periodSeconds }}
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: {{ $probes.failureThreshold }}
{{- end -}}

{{/* Takes root, role (head or worker) and group (a worker group, or nil). */}}
{{- define "palate.podTemplate" -}}
{{- $root := .root -}}
{{- $settings := .group | default $root.Values.head -}}
{{- $isHead := eq .role "head" -}}
metadata:
  labels:
    {{- include "palate.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
  {{- with $root.Values.podAnnotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "palate.serviceAccount" . }}
  automountServiceAccountToken: {{ and $isHead $root.Values.ray.autoscaler.enabled }}
  enableServiceLinks: false
  shareProcessNamespace: true # the exporter must see which processes are gone
  terminationGracePeriodSeconds: {{ $root.Values.terminationGracePeriodSeconds }}
  {{- include "palate.podSettings" $root | nindent 2 }}
  {{- with $settings.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with $settings.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $settings.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $settings.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "palate.initContainers" $root }}
  initContainers: {{- . | nindent 4 }}
  {{- end }}
  containers:
    - name: ray-{{ .role }}
      image: {{ include "palate.image" $root }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env: {{- include "palate.env" $root | nindent 8 }}
      ports:
        - {name: agent, containerPort: 52365}
        - {name: serve, containerPort: {{ $root.Values.service.port }}}
        {{- if $isHead }}
        - {name: gcs-server, containerPort: 6379}
        - {name: dashboard, containerPort: 8265}
        - {name: client, containerPort: 10001}
        {{- end }}
      {{- include "palate.probes" $root | nindent 6 }}
      {{- if $isHead }}
      readinessProbe:
        httpGet: {path: /api/gcs_healthz, port: dashboard}
      {{- else }}
      readinessProbe: # a worker gets traffic when its proxy answers
        httpGet: {path: /-/healthz, port: serve}
      {{- end }}
        periodSeconds: {{ $root.Values.probes.periodSeconds }}
        timeoutSeconds: {{ $root.Values.probes.timeoutSeconds }}
        failureThreshold: {{ $root.Values.probes.failureThreshold }}
      securityContext: {{- include "palate.securityContext" $root | nindent 8 }}
      resources: {{- include "palate.rayResources" (dict "settings" $settings) | nindent 8 }}
      volumeMounts:
        {{- include "palate.volumeMounts" $root | nindent 8 }}
        {{- if $settings.sharedMemory }}
        - {name: dshm, mountPath: /dev/shm}
        {{- end }}
    {{- include "palate.exporter" $root | nindent 4 }}
  volumes:
    {{- include "palate.volumes" (dict "root" $root "isHead" $isHead) | nindent 4 }}
    {{- with $settings.sharedMemory }}
    - name: dshm
      emptyDir: {medium: Memory, sizeLimit: {{ . }}}
    {{- end }}
{{- end -}}

{{/* A group's resources with its GPUs among them. */}}
{{- define "palate.rayResources" -}}
{{- $resources := deepCopy .settings.resources -}}
{{- if .settings.gpus -}}
{{- $gpus := dict (.settings.gpuResource | default "nvidia.com/gpu") (.settings.gpus | toString) -}}
{{- $_ := set $resources "limits" (merge $gpus ($resources.limits | default dict)) -}}
{{- $_ := set $resources "requests" (merge $gpus ($resources.requests | default dict)) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}
