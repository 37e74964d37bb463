{{- define "prefixrack.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "prefixrack.labels" -}}
{{ include "prefixrack.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end -}}

{{- define "prefixrack.metadata" -}}
name: {{ .Release.Name }}
labels:
  {{- include "prefixrack.labels" . | nindent 2 }}
{{- end -}}

{{- define "prefixrack.settings" -}}
PREFIXRACK_HTTP__LOG_FORMAT: json
# above the readiness probe's period: the endpoints are gone before the server stops accepting
PREFIXRACK_HTTP__DRAIN_S: "10"
{{- if .Values.shared.enabled }}
PREFIXRACK_REGISTRY__BLOBS_URL: {{ .Values.shared.blobsUrl | quote }}
{{- end }}
{{- if .Values.gpu.enabled }}
PREFIXRACK_BACKBONE__DEVICE: cuda
{{- end }}
{{- end -}}

{{- define "prefixrack.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{- define "prefixrack.rights" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "prefixrack.database" -}}
- name: PREFIXRACK_REGISTRY__DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .Values.shared.databaseSecret }}
      key: database-url
{{- end -}}
